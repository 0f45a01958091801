"""Number formats that NumPy does not have."""

import numpy as np

from tests.gpu.emulator.memory import Array


def float32_of_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bfloat16_of(values: Array) -> Array:
    """The bits of the nearest bfloat16, uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def tf32_of(values: Array) -> Array:
    """The bits of the nearest TF32 number, halves away from zero, uint32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    kept = np.uint32(0xFFFFE000)
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    quiet = np.where(bits & np.uint32(0x7FFFFF), np.uint32(0x400000), np.uint32(0))
    return np.where(special, bits & kept | quiet, (bits + np.uint32(0x1000)) & kept)


def decoded(data: Array, kind: str) -> Array:
    """The values of an operand of a product, of bytes; float64, or int64 of int8."""
    data = np.ascontiguousarray(data)
    if kind == "bf16":
        return float32_of_bfloat16(data.view(np.uint16)).astype(np.float64)
    if kind == "f16":
        return data.view(np.float16).astype(np.float64)
    if kind == "tf32":  # the tensor cores do not look at the last bits
        return (data.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    if kind == "e4m3":
        bits = data.view(np.uint8).astype(np.uint16)
        half = ((bits & 0x80) << 8 | (bits & 0x7F) << 7).view(np.float16).astype(np.float64) * 256
        return np.where((bits & 0x7F) == 0x7F, np.nan, half)
    if kind == "s8":
        return data.view(np.int8).astype(np.int64)
    raise NotImplementedError(f"products of {kind}")


def towards_zero(values: Array) -> Array:
    """float64 as float32, as the tensor cores round their sums."""
    near = values.astype(np.float32)
    over = (np.abs(near) > np.abs(values)) & np.isfinite(near)
    return (near.view(np.int32) - over).view(np.float32)
