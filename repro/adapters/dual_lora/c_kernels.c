// The update on a CPU: the weight with dW in it, and the gradients of the factors, one small tile at a time.
//
// P = B A and Z = D C exist only in registers, ROWS x COLUMNS of each. update.py gives the formulas.
// compiler.py compiles this file for one rule and one element type, given as macros:
//
//     ACTIVATION   RELU, ABS, SIGMOID or IDENTITY
//     DIRECTION    SIGN, IDENTITY or FIXED
//     CLIP         EQ7, EQ12, BNN or NONE
//     BF16         defined if weight and G are in bf16, else they are in fp32
//
// The first three are words of rule.py in capitals; c_kernels.py lists those that this file supports.
//
// The vectors are a GNU extension, which the compiler maps to the processor's instructions. Where it does not find the
// best ones, AVX-512's are named. c_amx.h has the gradients' products for processors with AMX.

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { RELU, ABS, SIGMOID, IDENTITY, SIGN, FIXED, EQ7, EQ12, BNN, NONE };

// 2 x 2 x ROWS vectors hold the tiles of P and Z, which leaves some of AVX-512's 32 registers for the factors.
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 2 };
#else
enum { LANES = 4, ROWS = 4 };
#endif
enum {
  COLUMNS = 2 * LANES,
  PANEL = 256,  // columns that a thread computes at a time: long enough for the processor to prefetch
  BAND = 32,    // rows at a time: their H and K, 32 KiB each over a panel, stay in the cache
  GROUP = 8,    // sums that the gradients keep in registers at a time
};

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t half __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

// An update, or a block of one. Mirrored in c_kernels.py.
struct term {
  long d, k, r1, r2;
  const float *A, *B, *C, *D;  // (r1, k), (d, r1), (r2, k), (d, r2); C and D are not read if DIRECTION is FIXED
  const float *amplitude;      // (d), the scale of each row of dW
  float scale;
  uint64_t seed;               // of a fixed direction; a row of it has `words` random words
  long words, first_row, first_column;
};

// ---- Numbers

INLINE vec pick(mask where, vec yes, vec no) { return (vec)(((mask)yes & where) | ((mask)no & ~where)); }
INLINE vec all(float value) { return (vec){0} + value; }
INLINE vec at(const float *p) { return *(const vec *)p; }
INLINE void put(float *p, vec v) { *(vec *)p = v; }
// Both keep NaN, as torch does, so that training notices it.
#ifdef __AVX512F__
// What the compiler does not find by itself.
INLINE vec clamped(vec v) { return _mm512_max_ps(all(-1), _mm512_min_ps(all(1), v)); }
INLINE vec turned(vec v, bits by) {
  return (vec)_mm512_ternarylogic_epi32((__m512i)v, (__m512i)by, _mm512_set1_epi32(0x80000000), 0x78);
}
#else
INLINE vec clamped(vec v) { return pick(v > 1, all(1), pick(v < -1, all(-1), v)); }
// v with its sign changed where `by` has one.
INLINE vec turned(vec v, bits by) { return (vec)((bits)v ^ (by & 0x80000000u)); }
#endif

#ifdef BF16
typedef uint16_t element;
#ifdef __AVX512BF16__
INLINE vec load(const element *p) {
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
INLINE void store(element *p, vec v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v)); }
#else
INLINE vec load(const element *p) { return (vec)(__builtin_convertvector(*(const half *)p, bits) << 16); }
INLINE void store(element *p, vec v) {
  bits nearest = (bits)v + 0x7fffu + (((bits)v >> 16) & 1u);  // to even
  bits nan = (bits)(v != v);
  *(half *)p = __builtin_convertvector(((nearest & ~nan) | (nan & 0x7fc00000u)) >> 16, half);
}
#endif
#else
typedef float element;
INLINE vec load(const element *p) { return at(p); }
INLINE void store(element *p, vec v) { put(p, v); }
#endif

// e^x as 2^n times a series in the remainder, |r| <= ln(2) / 2. The sigmoid has a relative error of up to
// 2.4e-7, torch's up to 1.5e-7.
INLINE vec exponential(vec x) {
  x = pick(x > 88, all(88), pick(x < -87, all(-87), x));
  vec n = x * 1.44269504f + 12582912.0f - 12582912.0f;  // rounds to an integer: 1.5 * 2^23 leaves no bits for a fraction
  vec r = x - n * 0.693145752f - n * 1.42860677e-6f;    // ln(2) in two parts, the first exact in every n
  vec e = all(1.0f / 720);
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  return e * (vec)((__builtin_convertvector(n, mask) + 127) << 23);
}

INLINE vec activation(vec P) {
  switch (ACTIVATION) {
    case RELU: return pick(P < 0, all(0), P);
    case ABS: return (vec)((bits)P & 0x7fffffffu);
    case SIGMOID: return 1.0f / (1.0f + exponential(-P));
    default: return P;
  }
}

// v times the derivative of the activation.
INLINE vec sloped(vec v, vec P, vec M) {
  switch (ACTIVATION) {
    case RELU: return pick(P > 0, v, all(0));
    case ABS: return pick(P == 0, all(0), turned(v, (bits)P));
    case SIGMOID: return v * (M * (1.0f - M));
    default: return v;
  }
}

// Whether H / amplitude has no more digits than G: it is G with another sign, or zero.
#define EXACT (ACTIVATION != SIGMOID && DIRECTION != IDENTITY)

// v times Sign(Z), or times Z itself.
INLINE vec directed(vec v, vec Z) { return DIRECTION == IDENTITY ? (vec)(v * Z) : turned(v, (bits)Z); }

static uint64_t splitmix64(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// ---- Tiles

static long least(long a, long b) { return a < b ? a : b; }
static long rounded_up(long n, long m) { return (n + m - 1) / m * m; }

// A ROWS x COLUMNS tile of a product plus `start`. Rows of `tall` have `rank` numbers, rows of `wide` PANEL.
INLINE void product(const float *tall, const float *wide, long rank, float start, vec out[ROWS][2]) {
  UNROLL for (int i = 0; i < ROWS; i++) out[i][0] = out[i][1] = all(start);
  for (long r = 0; r < rank; r++) {
    vec left = at(wide + r * PANEL), right = at(wide + r * PANEL + LANES);
    UNROLL for (int i = 0; i < ROWS; i++) {
      out[i][0] += tall[i * rank + r] * left;
      out[i][1] += tall[i * rank + r] * right;
    }
  }
}

// The tile of `random_signs`, as numbers of that sign. A tile spans at most two words of 32 columns.
INLINE void random_signs(const struct term *u, long row, long column, vec out[ROWS][2]) {
  column += u->first_column;
  bits lane;
  for (int l = 0; l < LANES; l++) lane[l] = l;
  UNROLL for (int i = 0; i < ROWS; i++) {
    uint64_t counter = u->seed + (uint64_t)((u->first_row + row + i) * u->words + column / 32);
    uint64_t words = (splitmix64(counter) & 0xffffffffu) | splitmix64(counter + 1) << 32;
    words >>= column % 32;
    out[i][0] = (vec)(~(((bits){0} + (uint32_t)words) >> lane) << 31);
    out[i][1] = (vec)(~(((bits){0} + (uint32_t)(words >> LANES)) >> lane) << 31);
  }
}

// What one thread reads: the factors of its rows and of one panel, padded with zeros to whole tiles.
struct work {
  long first, rows;  // of the block; multiples of BAND
  float *A, *B, *C, *D, *amplitude;
};

// Numbers in the memory that `take_rows` shares out: every row's, and a panel for each thread.
static long work_size(const struct term *u) {
  long ranks = u->r1 + u->r2;
  return rounded_up(u->d, BAND) * (ranks + 1) + omp_get_max_threads() * PANEL * ranks;
}

// The rows of a thread, `width` numbers each.
static void copy_rows(const struct term *u, const struct work *w, const float *from, long width, float *to) {
  long count = least(w->rows, u->d - w->first);
  if (count > 0 && width) memcpy(to, from + w->first * width, 4 * count * width);
  memset(to + count * width, 0, 4 * (w->rows - count) * width);
}

static struct work take_rows(const struct term *u, float *memory) {
  long threads = omp_get_num_threads(), thread = omp_get_thread_num(), all = rounded_up(u->d, BAND);
  struct work w = {.first = all / BAND * thread / threads * BAND};
  w.rows = all / BAND * (thread + 1) / threads * BAND - w.first;
  float *B = memory, *D = B + all * u->r1, *amplitude = D + all * u->r2, *panels = amplitude + all;
  w.B = B + w.first * u->r1;
  w.D = D + w.first * u->r2;
  w.amplitude = amplitude + w.first;
  w.A = panels + thread * PANEL * (u->r1 + u->r2);
  w.C = w.A + PANEL * u->r1;
  copy_rows(u, &w, u->B, u->r1, w.B);
  copy_rows(u, &w, u->D, u->r2, w.D);
  copy_rows(u, &w, u->amplitude, 1, w.amplitude);
  return w;
}

static void take_panel(const float *wide, long stride, long rank, long count, float *out) {
  for (long r = 0; r < rank; r++, out += PANEL) {
    memcpy(out, wide + r * stride, 4 * count);
    memset(out + count, 0, 4 * (PANEL - count));
  }
}

// P and Z of the tile at `row` of the thread and `column` of the panel. Z starts at minus the smallest normal
// number, because the paper has Sign(0) = -1.
INLINE void factor_products(const struct term *u, const struct work *w, long row, long panel, long column,
                            vec P[ROWS][2], vec Z[ROWS][2]) {
  product(w->B + row * u->r1, w->A + column, u->r1, 0, P);
  if (DIRECTION == FIXED)
    random_signs(u, w->first + row, panel + column, Z);
  else
    product(w->D + row * u->r2, w->C + column, u->r2, DIRECTION == SIGN ? -__FLT_MIN__ : 0, Z);
}

// A tile of weight or G that can be read as a whole: the tile itself or, at an edge, a copy padded with zeros.
INLINE const element *whole_tile(const element *p, long *stride, long height, long width, element *copy) {
  if (height >= ROWS && width >= COLUMNS) {
    // Prefetches what this thread reads two tiles further down: the rows are too far apart for the processor to
    // guess.
    UNROLL for (int i = 0; i < ROWS; i++)
      for (unsigned line = 0; line < COLUMNS * sizeof(element); line += 64)
        __builtin_prefetch((const char *)(p + (2 * ROWS + i) * *stride) + line);
    return p;
  }
  memset(copy, 0, ROWS * COLUMNS * sizeof(element));
  for (long i = 0; i < least(ROWS, height); i++)
    if (width > 0) memcpy(copy + i * COLUMNS, p + i * *stride, least(COLUMNS, width) * sizeof(element));
  *stride = COLUMNS;
  return copy;
}

// ---- W0 + dW

// A result larger than the cache of a core is written past it, in whole lines: the lines are then not read before they
// are written, and G or W0 stays.
#if defined(__AVX512F__) && (!defined(BF16) || defined(__AVX512BF16__))
INLINE int passes_the_caches(const struct term *u, const element *line) {
  long bytes = u->k * sizeof(element);
  return u->d * bytes > 1 << 22 && bytes % 64 == 0 && (uintptr_t)line % 64 == 0;
}
INLINE void stream(element *p, const vec v[2]) {
#ifdef BF16
  _mm512_stream_si512((__m512i *)p, (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0]));
#else
  _mm512_stream_ps(p, v[0]), _mm512_stream_ps(p + LANES, v[1]);
#endif
}
INLINE void finish_streams(void) { _mm_sfence(); }
#else
INLINE int passes_the_caches(const struct term *u, const element *line) { return (void)u, (void)line, 0; }
INLINE void stream(element *p, const vec v[2]) { store(p, v[0]), store(p + LANES, v[1]); }
INLINE void finish_streams(void) {}
#endif

// Writes the tile of weight + dW at `row` of the thread and `column` of the panel, which has `count` columns.
// `result` is (d, k) and contiguous; rows of `weight` are `stride` elements apart.
INLINE void write_updated(const struct term *u, const struct work *w, long row, long panel, long column, long count,
                          vec P[ROWS][2], vec Z[ROWS][2], const element *weight, long stride, element *result) {
  element copy[ROWS * COLUMNS], made[ROWS * COLUMNS];
  long first = w->first + row, height = u->d - first, width = count - column;
  int inside = height >= ROWS && width >= COLUMNS;
  element *there = result + first * u->k + panel + column, *target = inside ? there : made;
  long from = stride, to = inside ? u->k : COLUMNS;
  const element *source = whole_tile(weight + first * stride + panel + column, &from, height, width, copy);
  int past = inside && passes_the_caches(u, there);
  UNROLL for (int i = 0; i < ROWS; i++) {
    vec sum[2];
    UNROLL for (int half = 0; half < 2; half++) {
      vec update = w->amplitude[row + i] * directed(activation(P[i][half]), Z[i][half]);
      sum[half] = load(source + i * from + half * LANES) + update;
    }
    if (past)
      stream(target + i * to, sum);
    else
      store(target + i * to, sum[0]), store(target + i * to + LANES, sum[1]);
  }
  if (!inside && width > 0)
    for (long i = 0; i < least(ROWS, height); i++)
      memcpy(there + i * u->k, made + i * COLUMNS, least(COLUMNS, width) * sizeof(element));
}

// result = weight + dW. Returns 0, or 1 if there is no memory for the threads' copies of the factors.
int updated_weight(const struct term *u, const element *weight, long stride, element *result) {
  float *memory = aligned_alloc(64, rounded_up(4 * work_size(u), 64));
  if (!memory) return 1;
#pragma omp parallel
  {
    struct work w = take_rows(u, memory);
    for (long panel = 0; panel < u->k; panel += PANEL) {
      long count = least(PANEL, u->k - panel);
      take_panel(u->A + panel, u->k, u->r1, count, w.A);
      if (DIRECTION != FIXED) take_panel(u->C + panel, u->k, u->r2, count, w.C);
      for (long row = 0; row < w.rows; row += ROWS)
        for (long column = 0; column < count; column += COLUMNS) {
          vec P[ROWS][2], Z[ROWS][2];
          factor_products(u, &w, row, panel, column, P, Z);
          write_updated(u, &w, row, panel, column, count, P, Z, weight, stride, result);
        }
    }
    finish_streams();
  }
  free(memory);
  return 0;
}

// ---- Gradients

// dA += B^T H over a band and the used columns of a panel; dA is (rank, PANEL), H (BAND, PANEL).
static void add_across(const float *tall, long rank, const float *H, long used, float *sum) {
  long r = 0;
  for (; r + GROUP <= rank; r += GROUP)
    for (long j = 0; j < used; j += COLUMNS) {
      vec s[GROUP][2];
      float *out = sum + r * PANEL + j;
      UNROLL for (int q = 0; q < GROUP; q++) s[q][0] = at(out + q * PANEL), s[q][1] = at(out + q * PANEL + LANES);
      for (long i = 0; i < BAND; i++) {
        vec left = at(H + i * PANEL + j), right = at(H + i * PANEL + j + LANES);
        UNROLL for (int q = 0; q < GROUP; q++) {
          s[q][0] += tall[i * rank + r + q] * left;
          s[q][1] += tall[i * rank + r + q] * right;
        }
      }
      UNROLL for (int q = 0; q < GROUP; q++) put(out + q * PANEL, s[q][0]), put(out + q * PANEL + LANES, s[q][1]);
    }
  for (; r < rank; r++)
    for (long j = 0; j < used; j += LANES) {
      vec s = at(sum + r * PANEL + j);
      for (long i = 0; i < BAND; i++) s += tall[i * rank + r] * at(H + i * PANEL + j);
      put(sum + r * PANEL + j, s);
    }
}

// dB += H A^T over a band and the used columns of a panel; dB is (BAND, padded), A^T (PANEL, padded), with the rank padded to whole
// vectors.
static void add_down(const float *H, const float *transposed, long padded, long used, float *sum) {
  for (long r = 0; r < padded; r += LANES)
    for (long i = 0; i < BAND; i += GROUP) {
      vec s[GROUP];
      UNROLL for (int q = 0; q < GROUP; q++) s[q] = at(sum + (i + q) * padded + r);
      for (long j = 0; j < used; j++) {
        vec a = at(transposed + j * padded + r);
        UNROLL for (int q = 0; q < GROUP; q++) s[q] += H[(i + q) * PANEL + j] * a;
      }
      UNROLL for (int q = 0; q < GROUP; q++) put(sum + (i + q) * padded + r, s[q]);
    }
}

static void transpose(const float *wide, long rank, long padded, float *out) {
  memset(out, 0, 4 * PANEL * padded);
  for (long r = 0; r < rank; r++)
    for (long j = 0; j < PANEL; j++) out[j * padded + r] = wide[r * PANEL + j];
}

// A pair of factors, a wide one (rank, k) and a tall one (d, rank), and what one thread needs for their gradients.
struct pair {
  long rank, padded;  // to whole vectors
  float *wide, *tall;          // of a panel, of the thread's rows
  float *transposed;           // the panel's, (PANEL, padded)
  float *upstream;             // H or K of a band and a panel
  float *across, *down;        // parts of the gradients: for each panel (padded, PANEL); of the rows (rows, padded)
  uint16_t *wide_tiles, *tall_tiles;  // of `transposed` and `tall`, for c_amx.h
};

#if defined(BF16) && defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && \
    defined(__AVX512BF16__) && defined(__AVX512BW__)
#include "c_amx.h"
#else
static int amx_usable(void) { return 0; }
#endif

// Numbers in the memory that `take_pair` shares out: every row's twice, and for each thread two panels of the wide
// factor, its parts of the gradient and twice H.
static long pair_size(const struct term *u, long rank) {
  long padded = rounded_up(rank, LANES), width = rounded_up(u->k, PANEL);
  return 2 * rounded_up(u->d, BAND) * padded +
         omp_get_max_threads() * (2 * PANEL * padded + padded * width + 2 * BAND * PANEL);
}

static struct pair take_pair(const struct term *u, const struct work *w, long rank, float *wide, float *tall,
                             float *memory) {
  struct pair p = {.rank = rank, .padded = rounded_up(rank, LANES), .wide = wide, .tall = tall};
  long all = rounded_up(u->d, BAND), panel = PANEL * p.padded, width = rounded_up(u->k, PANEL) * p.padded;
  p.down = memory + w->first * p.padded;
  p.tall_tiles = (uint16_t *)(memory + (all + w->first) * p.padded);
  p.transposed = memory + 2 * all * p.padded + omp_get_thread_num() * (2 * panel + width + 2 * BAND * PANEL);
  p.wide_tiles = (uint16_t *)(p.transposed + panel);
  p.upstream = p.transposed + 2 * panel;
  p.across = p.upstream + 2 * BAND * PANEL;
  memset(p.down, 0, 4 * w->rows * p.padded);
  memset(p.across, 0, 4 * width);
  return p;
}

// Puts a tile of H or K where its products find it.
INLINE void keep(float *matrix, long row, long column, vec v[ROWS][2], int amx, int exact) {
#ifdef AMX
  if (amx) {
    UNROLL for (int i = 0; i < ROWS; i += 2) put_halves((struct halves *)matrix, row + i, column, v + i, exact);
    return;
  }
#endif
  (void)amx, (void)exact;
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int half = 0; half < 2; half++) put(matrix + (row + i) * PANEL + column + half * LANES, v[i][half]);
}

// H and K of a band and a panel, from G; and from the same P and Z, if a weight is given, weight + dW.
INLINE void upstream(const struct term *u, const struct work *w, long band, long panel, long count,
                     const element *G, long stride, float *H, float *K, int amx, const element *weight,
                     long weight_stride, element *result) {
  for (long row = 0; row < BAND; row += ROWS)
    for (long column = 0; column < count; column += COLUMNS) {
      vec P[ROWS][2], Z[ROWS][2], h[ROWS][2], k[ROWS][2];
      element copy[ROWS * COLUMNS];
      long height = u->d - (w->first + band + row), from = stride;
      const element *source = whole_tile(G + (w->first + band + row) * stride + panel + column, &from, height,
                                         count - column, copy);
      factor_products(u, w, band + row, panel, column, P, Z);
      if (weight) write_updated(u, w, band + row, panel, column, count, P, Z, weight, weight_stride, result);
      UNROLL for (int i = 0; i < ROWS; i++)
        UNROLL for (int half = 0; half < 2; half++) {
          vec g = load(source + i * from + half * LANES), M = activation(P[i][half]);
          float scale = amx && EXACT ? 1 : w->amplitude[band + row + i];
          h[i][half] = sloped(directed(scale * g, Z[i][half]), P[i][half], M);
          vec v = (CLIP == EQ12 ? clamped(g) : g) * M * u->scale;
          if (CLIP == EQ7) v = clamped(v);
          if (CLIP == BNN) v = pick((Z[i][half] <= 1) & (Z[i][half] >= -1), v, all(0));
          k[i][half] = v;
        }
      keep(H, row, column, h, amx, EXACT);
      if (DIRECTION != FIXED) keep(K, row, column, k, amx, 0);
    }
}

// dA (r1, k), dB (d, r1), dC (r2, k) and dD (d, r2), contiguous, for G = dL/d(dW), whose rows are `stride`
// elements apart. Each thread has its own rows; its parts of dA and dC are summed at the end in the order of the
// threads, so the same number of threads gives the same bits. If a weight is given, also result = weight + dW.
// Returns 0, or 1 if there is no memory for those parts, its largest allocation.
int gradients(const struct term *u, const element *G, long stride, float *dA, float *dB, float *dC, float *dD,
              const element *weight, long weight_stride, element *result) {
  int amx = amx_usable(), pairs = DIRECTION == FIXED ? 1 : 2;
  long size1 = pair_size(u, u->r1), size2 = pair_size(u, u->r2);
  float *memory = aligned_alloc(64, rounded_up(4 * (size1 + size2 + work_size(u)), 64));
  if (!memory) return 1;
  float *across[2][omp_get_max_threads()];  // the threads' parts of dA and dC
#pragma omp parallel
  {
    struct work w = take_rows(u, memory + size1 + size2);
    struct pair pair[2] = {take_pair(u, &w, u->r1, w.A, w.B, memory),
                           take_pair(u, &w, u->r2, w.C, w.D, memory + size1)};
    for (int p = 0; p < pairs; p++) across[p][omp_get_thread_num()] = pair[p].across;
#ifdef AMX
    struct tile_config before = begin_tiles(amx);
    if (amx)
      for (int p = 0; p < pairs; p++)
        tall_tiles(&pair[p], w.rows, EXACT && p == 0 ? w.amplitude : NULL);
#endif
    for (long panel = 0; panel < u->k; panel += PANEL) {
      long count = least(PANEL, u->k - panel), used = rounded_up(count, COLUMNS);
      for (int p = 0; p < pairs; p++) {
        take_panel((p ? u->C : u->A) + panel, u->k, pair[p].rank, count, pair[p].wide);
        transpose(pair[p].wide, pair[p].rank, pair[p].padded, pair[p].transposed);
      }
#ifdef AMX
      if (amx) {
        for (int p = 0; p < pairs; p++) wide_tiles(&pair[p], used);
        for (long band = 0; band < w.rows; band += BAND) {
          upstream(u, &w, band, panel, count, G, stride, pair[0].upstream, pair[1].upstream, 1, weight, weight_stride,
                   result);
          for (int p = 0; p < pairs; p++)
            add_tiles(&pair[p], band, used, pair[p].across + panel * pair[p].padded, EXACT && p == 0);
        }
        continue;
      }
#endif
      for (long band = 0; band < w.rows; band += BAND) {
        upstream(u, &w, band, panel, count, G, stride, pair[0].upstream, pair[1].upstream, 0, weight, weight_stride,
                 result);
        for (int p = 0; p < pairs; p++) {
          const struct pair *q = &pair[p];
          add_across(q->tall + band * q->rank, q->rank, q->upstream, used, q->across + panel * q->padded);
          add_down(q->upstream, q->transposed, q->padded, used, q->down + band * q->padded);
        }
      }
    }
    finish_streams();
#ifdef AMX
    end_tiles(amx, before);
#endif
    for (int p = 0; p < pairs; p++) {
      float *out = (p ? dD : dB) + w.first * pair[p].rank;
      for (long i = 0; i < least(w.rows, u->d - w.first); i++, out += pair[p].rank) {
        const float *sum = pair[p].down + i * pair[p].padded;
        float scale = amx && EXACT && p == 0 ? w.amplitude[i] : 1;
        for (long r = 0; r < pair[p].rank; r++) out[r] = scale * sum[r];
      }
    }
#pragma omp barrier
    long threads = omp_get_num_threads();
#pragma omp for
    for (long panel = 0; panel < u->k; panel += PANEL)
      for (int p = 0; p < pairs; p++)
        for (long r = 0; r < pair[p].rank; r++) {
          float *out = (p ? dC : dA) + r * u->k + panel;
          for (long j = 0; j < least(PANEL, u->k - panel); j++) {
            float sum = 0;
            for (long t = 0; t < threads; t++) sum += across[p][t][panel * pair[p].padded + r * PANEL + j];
            out[j] = sum;
          }
        }
  }
  free(memory);
  return 0;
}
