"""What a cluster can do: the inputs of the time model. No torch here."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """GPUs of one kind, and the links between them; each number per GPU and in one direction.

    `peak_flops` dense in bf16; `fused_attention` the share of it that fused attention reaches.
    Latencies are those of one hop of a ring.
    """

    name: str
    gpus_per_node: int
    peak_flops: float
    memory_bytes: int
    memory_bandwidth: float
    node_bandwidth: float
    network_bandwidth: float
    fused_attention: float
    node_latency_seconds: float = 3.4e-6
    network_latency_seconds: float = 14e-6


# Peaks, memories and NVLink: NVIDIA A100 and H100 data sheets (312e12 and 989e12 dense; NVLink 600
# and 900 GB/s both ways). Latencies: NCCL src/graph/tuning.cc, hwLat of rings, protocol Simple.
# Fused attention: Dao 2023, arXiv:2307.08691, abstract (50 to 73 % on A100, here their lower end,
# which is the backward pass); Shah et al. 2024, arXiv:2407.08608, abstract (35 % on H100 with the
# kernel before theirs).
A100 = Hardware(
    # Selene: Narayanan et al. 2021, arXiv:2104.04473, sec. 5 (eight HDR 200 Gb/s cards a node).
    name="A100 80GB, NVLink, 8 x 200 Gb/s",
    gpus_per_node=8,
    peak_flops=312e12,
    memory_bytes=80 * GIB,
    memory_bandwidth=2.039e12,
    node_bandwidth=300e9,
    network_bandwidth=25e9,
    fused_attention=0.5,
)
A100_40GB = Hardware(
    # Black et al. 2022, arXiv:2204.06745, sec. 2.3 (four cards of 200 Gb/s a node of eight).
    name="A100 40GB, NVLink, 4 x 200 Gb/s",
    gpus_per_node=8,
    peak_flops=312e12,
    memory_bytes=40 * GIB,
    memory_bandwidth=1.555e12,
    node_bandwidth=300e9,
    network_bandwidth=12.5e9,
    fused_attention=0.5,
)
H100 = Hardware(
    # Dubey et al. 2024, arXiv:2407.21783, sec. 3.3.1 (400 Gb/s a GPU; InfiniBand has the same).
    name="H100 80GB, NVLink, 8 x 400 Gb/s",
    gpus_per_node=8,
    peak_flops=989e12,
    memory_bytes=80 * GIB,
    memory_bandwidth=3.35e12,
    node_bandwidth=450e9,
    network_bandwidth=50e9,
    fused_attention=0.35,
)

MACHINES: dict[str, Hardware] = {"a100": A100, "a100-40gb": A100_40GB, "h100": H100}


@dataclass(frozen=True)
class Group:
    """Ranks that talk: `size` of them, `stride` apart in a numbering that fills nodes in order."""

    size: int
    stride: int

    def within_node(self, hardware: Hardware) -> bool:
        return self.size * self.stride <= hardware.gpus_per_node

    def together(self, hardware: Hardware) -> int:
        """Ranks of the group in one node."""
        return min(self.size, max(1, hardware.gpus_per_node // self.stride))


def bandwidth(hardware: Hardware, group: Group) -> float:
    """Bytes a second between neighbours of a ring; between nodes those of one rank's card.

    A node's cards could carry one ring together, but then the six published runs of ZeRO 3 alone
    (Narayanan et al. 2021, arXiv:2104.04473, table 2) would be up to 3.5 times as fast as they
    were; so they are within 20 %. Newer libraries may do better than we say.
    """
    inside = group.within_node(hardware)
    return hardware.node_bandwidth if inside else hardware.network_bandwidth


def hops_seconds(hardware: Hardware, group: Group) -> float:
    """What a message around the whole ring waits: hops between nodes, and within them."""
    nodes = -(-group.size // group.together(hardware))
    between, within = nodes - 1, group.size - nodes
    return between * hardware.network_latency_seconds + within * hardware.node_latency_seconds


def gather_seconds(
    hardware: Hardware, group: Group, size: float, reached: float, pieces: int = 1
) -> float:
    """An all-gather to, or a reduce-scatter of, `size` bytes in so many pieces, one by one.

    An all-reduce is one after the other; `reached` of the links' bandwidth. Source: Patarasuk and
    Yuan 2009, doi:10.1016/j.jpdc.2008.09.002 (rings move (n - 1) / n of it).
    """
    moved = size * (group.size - 1) / group.size
    rate = reached * bandwidth(hardware, group)
    return moved / rate + pieces * hops_seconds(hardware, group)


def hop_seconds(hardware: Hardware, group: Group) -> float:
    inside = group.within_node(hardware)
    return hardware.node_latency_seconds if inside else hardware.network_latency_seconds


def exchange_seconds(hardware: Hardware, group: Group, size: float, reached: float) -> float:
    """An all-to-all in which each rank has `size` bytes, as many for each."""
    if group.size == 1:
        return 0.0
    inside = group.together(hardware)
    near = size * (inside - 1) / group.size / hardware.node_bandwidth
    far = size * (group.size - inside) / group.size / hardware.network_bandwidth
    return max(near, far) / reached + hop_seconds(hardware, group)


def send_seconds(hardware: Hardware, group: Group, size: float, reached: float) -> float:
    """One message to the next rank of a group."""
    return size / (reached * bandwidth(hardware, group)) + hop_seconds(hardware, group)
