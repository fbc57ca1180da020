// Backward of the tabulated convolution: one warp per receiver and block of channels, 16 of its edges and 8 channels at a time.
//
// With G_pij = sum_k C_ijk g_k of the receiver, u_pi = sum_j Y_j G_pij of edges and channels is a product of matrices, (16 edges, harmonics)
// by (harmonics, 8 channels), and dY_j = sum over p, i and channels of w_p x_i G_pij one of (16 edges, 8 channels) by (8 channels,
// harmonics). Lane 4 r + q holds the numbers of edges r and r + 8, channels 2 q and 2 q + 1 in between: what the tensor cores give of the
// first product and what they take for the second, where channel 2 q stands in column q and 2 q + 1 in column q + 4.
//
// Tensor cores read the 11 leading bits of a number: every number is split in a high and a low part of that many, and of the four products
// that of the low parts is left out. Tensor cores also cut sums off instead of rounding them, so that long sums are made of short ones by
// the other units.

// What is missing from a number of which tensor cores read the leading bits.
__device__ __forceinline__ float low_part(float x) { return x - __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// The number of 11 bits that is nearest.
__device__ __forceinline__ float nearest(float x) { return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u); }

// A number such that tensor cores read ``nearest`` of it: the bits behind say by how much it is wrong, counted from their middle.
__device__ __forceinline__ float packed(float x) {
  const float high = nearest(x), middle = __uint_as_float(__float_as_uint(high) | 0x1000u);
  const float sum = middle + (x - high);
  return __uint_as_float(__float_as_uint(sum) & ~1u);
}
__device__ __forceinline__ float packed_low(float x) { return x - __uint_as_float(and_or(__float_as_uint(x), 0xffffe000u, 0x1000u)); }

// Harmonics of degree L of 16 edges as the first factor of a product.
template <int L>
struct Harmonics {
  float high[4], low[4];

  __device__ __forceinline__ Harmonics(const float *edge, const float *other, int quarter) {
#pragma unroll
    for (int v = 0; v < 4; v++) {
      const int j = quarter + 4 * (v / 2);  // read within bounds and without a branch
      const float read = (v % 2 ? other : edge)[L * L + min(j, 2 * L)], value = j < 2 * L + 1 ? read : 0.0f;
      high[v] = nearest(value), low[v] = value - high[v];
    }
    if (L == 1) high[2] = low[0], high[3] = low[1];  // three harmonics leave room for their low parts
  }
};

// dY of degree L of 16 edges; ``low`` are the small products.
struct Sums {
  float high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
};

// u = Y G of one p, i; ``g`` points to packed G of harmonic ``quarter`` and channel lane / 4.
template <int L>
__device__ __forceinline__ void couple(float (&u)[4], const Harmonics<L> &y, const float *g) {
  u[0] = u[1] = u[2] = u[3] = 0.0f;
  const float first = g[0];
  if (L == 1) {
    multiply_add(u, y.high[0], y.high[1], packed_low(first));
    multiply_add(u, y.high, first, first);
    return;
  }
  const float second = g[4 * 8];
  multiply_add(u, y.high, packed_low(first), packed_low(second));
  multiply_add(u, y.low, first, second);
  multiply_add(u, y.high, first, second);
}

// sums += z G; ``g`` points to packed G of harmonic lane / 4 and channel 2 quarter.
__device__ __forceinline__ void add_product(float (&high)[4], float (&low)[4], const float (&z)[4], const float *g) {
  const float2 both = *reinterpret_cast<const float2 *>(g);
  const float a[4] = {z[0], z[2], z[1], z[3]};
  const float rest[4] = {low_part(a[0]), low_part(a[1]), low_part(a[2]), low_part(a[3])};
  multiply_add(low, rest, both.x, both.y);
  multiply_add(low, a, packed_low(both.x), packed_low(both.y));
  multiply_add(high, a, both.x, both.y);
}

// Coefficients of one path: of each edge those of two channels, in the order in which they were read.
struct Coefficients {
  Quad of[4];
};

// Where a lane reads them. Lanes of odd edges read channel 2 quarter + 1 first, so that lanes 8 k to 8 k + 7 read 128 different bytes
// of a line.
struct Rows {
  const Quad *first[2], *second[2];

  __device__ __forceinline__ Rows(const Quad *table, const int (&rows)[2], int width, bool odd) {
#pragma unroll
    for (int e = 0; e < 2; e++) first[e] = table + (size_t)rows[e] * width + odd, second[e] = table + (size_t)rows[e] * width + !odd;
  }
  __device__ __forceinline__ void next_channels() {
#pragma unroll
    for (int e = 0; e < 2; e++) first[e] += 8, second[e] += 8;
  }
};

__device__ __forceinline__ void load(Coefficients &c, const Rows &rows, int offset) {
#pragma unroll
  for (int e = 0; e < 2; e++) c.of[2 * e] = rows.first[e][offset], c.of[2 * e + 1] = rows.second[e][offset];
}

// w and dw/dt at t, in the order of channels.
__device__ __forceinline__ void evaluate(float (&w)[4], float (&slope)[4], const Coefficients &read, const float (&t)[2], bool odd) {
#pragma unroll
  for (int e = 0; e < 2; e++) {
    float values[2], slopes[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float4 c = numbers(read.of[2 * e + h]);
      const float upper = c.z + t[e] * c.w, inner = c.y + t[e] * upper;
      values[h] = c.x + t[e] * inner;
      slopes[h] = inner + t[e] * (upper + t[e] * c.w);
    }
    w[2 * e] = odd ? values[1] : values[0], w[2 * e + 1] = odd ? values[0] : values[1];
    slope[2 * e] = odd ? slopes[1] : slopes[0], slope[2 * e + 1] = odd ? slopes[0] : slopes[1];
  }
}

// What one path adds to dx and dt of 16 edges and 8 channels, given dw; FIRST: dx is set.
template <bool FIRST>
__device__ __forceinline__ void add_input(float (&dx)[4], float (&dw)[4], const float (&w)[4], const float (&u)[4], const float (&x)[4],
                                          bool first_component) {
#pragma unroll
  for (int v = 0; v < 4; v++) {
    dx[v] = FIRST ? w[v] * u[v] : dx[v] + w[v] * u[v];
    dw[v] = first_component ? x[v] * u[v] : dw[v] + x[v] * u[v];
  }
}

__device__ __forceinline__ void add_slopes(float (&dt)[2], const float (&dw)[4], const float (&slope)[4]) {
#pragma unroll
  for (int v = 0; v < 4; v++) dt[v / 2] += dw[v] * slope[v];
}

// A path with harmonics of degree L, whose G stands in rows of 8 channels from ``row`` on, 2 L + 1 for each component of x.
template <bool FIRST, int COMPONENTS, int L>
__device__ __forceinline__ void add_path(float (*dx)[4], float (&dt)[2], Sums &sums, const Coefficients &c, const float (*x)[4],
                                         const Harmonics<L> &y, const float (&t)[2], bool odd, const float *by_harmonic,
                                         const float *by_channel) {
  float w[4], slope[4], dw[4], high[4] = {0, 0, 0, 0};
  evaluate(w, slope, c, t, odd);
#pragma unroll
  for (int i = 0; i < COMPONENTS; i++) {
    float u[4], z[4];
    couple<L>(u, y, by_harmonic + i * (2 * L + 1) * 8);
    add_input<FIRST>(dx[i], dw, w, u, x[i], i == 0);
#pragma unroll
    for (int v = 0; v < 4; v++) z[v] = w[v] * x[i][v];
    add_product(high, sums.low, z, by_channel + i * (2 * L + 1) * 8);
  }
  add_slopes(dt, dw, slope);
#pragma unroll
  for (int v = 0; v < 4; v++) sums.high[v] += high[v];
}

// A path with the harmonic of degree 0, which is one: u = G; ``g`` points to channel 2 quarter.
template <bool FIRST, int COMPONENTS>
__device__ __forceinline__ void add_scalar_path(float (*dx)[4], float (&dt)[2], const Coefficients &c, const float (*x)[4],
                                                const float (&t)[2], bool odd, const float *g) {
  float w[4], slope[4], dw[4];
  evaluate(w, slope, c, t, odd);
#pragma unroll
  for (int i = 0; i < COMPONENTS; i++) {
    const float2 both = *reinterpret_cast<const float2 *>(g + 8 * i);
    const float u[4] = {both.x, both.y, both.x, both.y};
    add_input<FIRST>(dx[i], dw, w, u, x[i], i == 0);
  }
  add_slopes(dt, dw, slope);
}

// Where a lane reads x of two edges.
struct Inputs {
  const float *of[2];

  __device__ __forceinline__ Inputs(const float *x, const int (&atoms)[2], int width) {
#pragma unroll
    for (int e = 0; e < 2; e++) of[e] = x + (size_t)atoms[e] * width;
  }
  __device__ __forceinline__ void next_channels() { of[0] += 8, of[1] += 8; }
};

// Components of x of two edges, from ``offset`` on.
template <int COMPONENTS>
__device__ __forceinline__ void load_inputs(float (*to)[4], const Inputs &x, int offset, int channels) {
#pragma unroll
  for (int e = 0; e < 2; e++)
#pragma unroll
    for (int i = 0; i < COMPONENTS; i++) {
      const float2 both = *reinterpret_cast<const float2 *>(x.of[e] + offset + i * channels);
      to[i][2 * e] = both.x, to[i][2 * e + 1] = both.y;
    }
}

// Components of dx of two rows, those below zero left out.
template <int COMPONENTS>
__device__ __forceinline__ void store_inputs(const float (*from)[4], float *dx, const int (&rows)[2], int width, int channels) {
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (rows[e] >= 0)
#pragma unroll
      for (int i = 0; i < COMPONENTS; i++)
        *reinterpret_cast<float2 *>(dx + (size_t)rows[e] * width + i * channels) = make_float2(from[i][2 * e], from[i][2 * e + 1]);
}

template <int L>
__device__ __forceinline__ void store_sums(const Sums &sums, float *parts, const int (&rows)[2], int features, int quarter) {
#pragma unroll
  for (int v = 0; v < 4; v++) {
    const int j = 2 * quarter + v % 2;
    if (rows[v / 2] >= 0 && j < 2 * L + 1) parts[(size_t)rows[v / 2] * features + L * L + j] = sums.high[v] + sums.low[v];
  }
}

__device__ __forceinline__ void store_position(const float (&dt)[2], float *parts, const int (&rows)[2], int features, int quarter) {
#pragma unroll
  for (int e = 0; e < 2; e++) {
    float sum = dt[e] + exchange(dt[e], 1);
    sum += exchange(sum, 2);
    if (rows[e] >= 0 && quarter == 0) parts[(size_t)rows[e] * features] = sum;
  }
}
