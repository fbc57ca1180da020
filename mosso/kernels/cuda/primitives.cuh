// What the kernels ask of the hardware, one function each: everything else is plain C++, so that the tests can run the same kernels on
// the host with these functions emulated. Layouts of fragments: PTX ISA, "Matrix fragments for mma.m16n8k4" and "mma.m16n8k8".
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ void wait_for_warp() { __syncwarp(); }

// The value of the lane whose number differs by the bits of ``mask``.
__device__ __forceinline__ float exchange(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// (x & keep) | set, for which a compiler takes two instructions.
__device__ __forceinline__ unsigned and_or(unsigned x, unsigned keep, unsigned set) {
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(x), "r"(keep), "r"(set));
  return result;
}

__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// d += a b of a warp: a (16, 8), b (8, 8), d (16, 8). Tensor cores read the leading 19 bits of every number in a and b.
__device__ __forceinline__ void multiply_add(float (&d)[4], const float (&a)[4], float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// The same with a (16, 4), b (4, 8).
__device__ __forceinline__ void multiply_add(float (&d)[4], float a0, float a1, float b) {
  asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(b)));
}
