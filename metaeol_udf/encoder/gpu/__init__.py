"""What only GPUs need: packed batches, FlexAttention, CUDA graphs, layers spread over several GPUs."""
