"""gguf_shape.py: the numbers of a GGUF file from which limits follow."""
import collections
import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
FORMATS = {4: "<I", 5: "<i", 6: "<f", 10: "<Q"}

Shape = collections.namedtuple("Shape", [
    "tensor_bytes",     # all weights
    "token_bytes",      # read for one token
    "layer_params",     # of matrices in layers
    "head_params",
    "kv_bytes",         # f16 K and V of one position
    "page_bytes"])      # of 32 positions


def read_value(f, kind):
    if kind == 8:
        return f.read(struct.unpack("<Q", f.read(8))[0])
    if kind == 9:
        of, n = struct.unpack("<IQ", f.read(12))
        if of == 8:
            for _ in range(n):
                f.seek(struct.unpack("<Q", f.read(8))[0], 1)
        else:
            f.seek(n * SIZES[of], 1)
        return None
    raw = f.read(SIZES[kind])
    return struct.unpack(FORMATS[kind], raw)[0] if kind in FORMATS else None


def read(path):
    keys, tensors = {}, []
    with open(path, "rb") as f:
        _, _, n_tensors, n_keys = struct.unpack("<4sIQQ", f.read(24))
        for _ in range(n_keys):
            key = read_value(f, 8).decode()
            keys[key] = read_value(f, struct.unpack("<I", f.read(4))[0])
        for _ in range(n_tensors):
            name = read_value(f, 8).decode()
            n_dims = struct.unpack("<I", f.read(4))[0]
            dims = struct.unpack(f"<{n_dims}Q", f.read(8 * n_dims))
            offset = struct.unpack("<IQ", f.read(12))[1]
            tensors.append((offset, name, dims))
        align = keys.get("general.alignment") or 32
        start = -(-f.tell() // align) * align
        end = f.seek(0, 2)

    tensors.sort()
    ends = [t[0] for t in tensors[1:]] + [end - start]
    size = {t[1]: e - t[0] for t, e in zip(tensors, ends)}
    dims = {t[1]: t[2] for t in tensors}
    head = ("output.weight" if "output.weight" in dims
            else "token_embd.weight")
    unread = size["token_embd.weight"] if head == "output.weight" else 0
    arch = keys["general.architecture"].decode()
    n_heads = keys[f"{arch}.attention.head_count"]
    n_kv = keys.get(f"{arch}.attention.head_count_kv") or n_heads
    head_dim = (keys.get(f"{arch}.attention.key_length")
                or keys[f"{arch}.embedding_length"] // n_heads)
    kv = keys[f"{arch}.block_count"] * n_kv * head_dim * 2 * 2
    total = sum(size.values())
    return Shape(
        total, total - unread,
        sum(d[0] * d[1] for n, d in dims.items()
            if n.startswith("blk.") and len(d) == 2),
        dims[head][0] * dims[head][1], kv, 32 * kv)
