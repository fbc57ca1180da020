"""Sums of many numbers over the lanes of a warp, in PTX."""

import triton


def warp_sum_asm(count: int, itemsize: int) -> tuple[str, str]:
    """PTX that sums ``count`` values over the lanes of a warp, and its constraints; lane l ends with sum l * width // 32.

    At each level lanes exchange half of the values they still hold, so that 16 sums cost 15 + 1 shuffles instead of
    the 80 of one reduction after the other, which took as long as all the arithmetic. width: count as a power of two.
    """
    kind, width = {4: "f32", 8: "f64"}[itemsize], triton.next_power_of_2(count)
    lines = [f".reg .{kind} v<{width}>, keep, send;", ".reg .b32 lane, bit, low, high;", ".reg .pred upper;", "mov.u32 lane, %laneid;"]
    for q in range(width):
        lines.append(
            f"mov.{kind} v{q}, ${q + 1};" if q < count else f"mov.{kind} v{q}, {'0f00000000' if itemsize == 4 else '0d0000000000000000'};"
        )
    for mask in (16, 8, 4, 2, 1):
        halves = width > 1
        width = max(width // 2, 1)
        if halves:
            lines += [f"and.b32 bit, lane, {mask};", "setp.ne.u32 upper, bit, 0;"]
        for q in range(width):
            if halves:
                lines += [f"selp.{kind} keep, v{q + width}, v{q}, upper;", f"selp.{kind} send, v{q}, v{q + width}, upper;"]
            else:
                lines += [f"mov.{kind} keep, v{q};", f"mov.{kind} send, v{q};"]
            if itemsize == 4:
                lines += ["mov.b32 low, send;", _shuffle("low", mask), "mov.b32 send, low;"]
            else:
                lines += ["mov.b64 {low, high}, send;", _shuffle("low", mask), _shuffle("high", mask), "mov.b64 send, {low, high};"]
            lines.append(f"add.{kind} v{q}, keep, send;")
    lines.append(f"mov.{kind} $0, v0;")
    letter = {4: "f", 8: "d"}[itemsize]
    return "{ " + " ".join(lines) + " }", ",".join([f"={letter}"] + [letter] * count)


def _shuffle(register: str, mask: int) -> str:
    return f"shfl.sync.bfly.b32 {register}, {register}, {mask}, 0x1f, 0xffffffff;"
