-- For each ticket that waits the two nearest ones that are solved (NEAREST BY: Spark 4.2). Computed anew by each run, from vectors alone.
CREATE MATERIALIZED VIEW nearest_tickets AS
SELECT waiting.ticket, solved.ticket AS nearest, vector_cosine_similarity(waiting.embedding, solved.embedding) AS score
FROM (SELECT ticket, embedding FROM ticket_vectors WHERE state = 'waiting' AND embedding IS NOT NULL) AS waiting
JOIN (SELECT ticket, embedding FROM ticket_vectors WHERE state = 'solved' AND embedding IS NOT NULL) AS solved
EXACT NEAREST 2 BY SIMILARITY vector_cosine_similarity(waiting.embedding, solved.embedding)
