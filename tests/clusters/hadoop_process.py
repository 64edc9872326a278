"""Runs Hadoop's mini clusters until it is stopped: `python -m tests.clusters.hadoop_process FOLDER JARS`.

The shaded mini clusters have no program of their own that can start both, so a Python process makes them in its Java process. It writes
the settings of a client into FOLDER/conf and the file system's address into FOLDER/address, then obeys what stands in FOLDER/order.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pyspark
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

SETTINGS = {
    # Containers are held to no limit, and disks of a laptop are full.
    "yarn.nodemanager.vmem-check-enabled": "false",
    "yarn.nodemanager.pmem-check-enabled": "false",
    "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "99.9",
    "yarn.nodemanager.resource.memory-mb": "6144",
    "yarn.nodemanager.delete.debug-delay-sec": "3600",  # logs of containers are read afterwards
    "yarn.scheduler.minimum-allocation-mb": "128",
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.default.capacity": "100",
    "yarn.scheduler.capacity.maximum-am-resource-percent": "1.0",
    "yarn.resourcemanager.am.max-attempts": "1",
    # A lost machine is noticed in seconds.
    "yarn.nm.liveness-monitor.expiry-interval-ms": "8000",
    "yarn.resourcemanager.nm.liveness-monitor.interval-ms": "1000",
}


class MiniClusters:
    """The mini clusters in a Java process."""

    def __init__(self, folder: Path, jars: str, n_nodes: int = 2) -> None:
        """Start them; the settings of a client are in `folder/conf` afterwards."""
        home = Path(pyspark.__file__).parent / "jars"
        port = launch_gateway(
            jarpath=str(next(home.glob("py4j*.jar"))),
            classpath=f"{jars}:{home}/*",
            javaopts=["-Xmx768m", f"-Dtest.build.data={folder / 'data'}"],
            die_on_exit=True,
            redirect_stdout=sys.stdout,
            redirect_stderr=sys.stderr,
        )
        self._jvm: Any = JavaGateway(gateway_parameters=GatewayParameters(port=port)).jvm
        conf = self._jvm.org.apache.hadoop.yarn.conf.YarnConfiguration()
        for key, value in SETTINGS.items():
            conf.set(key, value)
        conf.set("hdfs.minidfs.basedir", str(folder / "hdfs"))
        self.files = self._jvm.org.apache.hadoop.hdfs.MiniDFSCluster.Builder(conf).numDataNodes(1).build()
        self.files.waitActive()
        self.yarn = self._jvm.org.apache.hadoop.yarn.server.MiniYARNCluster("yarn", n_nodes, 1, 1)
        self.yarn.init(conf)
        self.yarn.start()
        settings = self.yarn.getConfig()
        settings.unset("net.topology.node.switch.mapping.impl")  # a class of the mini clusters, which clients do not have
        (folder / "conf").mkdir()
        for name in ("core-site.xml", "hdfs-site.xml", "yarn-site.xml"):  # one that holds all would do, but not every reader knows
            output = self._jvm.java.io.FileOutputStream(str(folder / "conf" / name))
            settings.writeXml(output)
            output.close()

    def obey(self, order: str) -> None:
        """Stop the NodeManager of a number: `lose 1`."""
        verb, _, number = order.partition(" ")
        if verb != "lose":
            raise ValueError(f"«{order}» is no order")
        self.yarn.getNodeManager(int(number)).stop()


def main() -> None:
    folder, jars = Path(sys.argv[1]), sys.argv[2]
    clusters = MiniClusters(folder, jars)
    address = folder / "address"
    address.with_suffix(".new").write_text(str(clusters.files.getURI().toString()))
    address.with_suffix(".new").rename(address)
    order = folder / "order"
    while True:
        if order.is_file():
            clusters.obey(order.read_text())
            order.unlink()
        time.sleep(0.1)


if __name__ == "__main__":
    main()
