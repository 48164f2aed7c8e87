// The gradients' products on Intel's AMX, for c_kernels.c in bf16: H and K against the factors, a tile at a time.
//
// AMX multiplies numbers in bf16 and sums in fp32. Each number in fp32 becomes the sum of two in bf16, to 2^-17 of it,
// and three of the four products are summed: an error of about 2^-16, where bf16 alone has 2^-8.
//
// A tile is 16 rows of 64 bytes: 16 x 32 numbers as a left operand; as a right one 32 x 16, two rows interleaved in
// one; 16 x 16 sums in fp32.

#define AMX

#include <sys/syscall.h>
#include <unistd.h>

enum { TILE = 512, WIDTH = 32, SIDE = 16 };

// H or K of a band and a panel in two parts: as left operands, tile by tile, and as right ones.
struct halves {
  uint16_t left[2][BAND * PANEL], right[2][BAND * PANEL];
} __attribute__((aligned(64)));

// Whether the operating system lets this process use the tiles.
static int amx_usable(void) {
  static int answer = -1;
  enum { REQUEST = 0x1023, TILE_DATA = 18 };
  if (answer < 0) answer = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return answer;
}

struct tile_config {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Eight whole tiles. Returns the configuration that another library may have left.
static struct tile_config begin_tiles(int usable) {
  struct tile_config before, ours = {.palette = 1};
  if (!usable) return before;
  for (int i = 0; i < 8; i++) ours.bytes[i] = 64, ours.rows[i] = 16;
  _tile_storeconfig(&before);
  _tile_loadconfig(&ours);
  return before;
}

static void end_tiles(int usable, struct tile_config before) {
  if (usable) _tile_loadconfig(&before);
}

INLINE vec upper(vec v) { return (vec)((bits)v & 0xffff0000u); }
// So that its upper half is the nearest number in bf16.
INLINE vec raised(vec v) { return (vec)((bits)v + 0x8000u); }
// The upper halves of `even` and of `odd`, alternating.
INLINE bits interleaved(vec even, vec odd) { return ((bits)even >> 16) | ((bits)odd & 0xffff0000u); }

// The upper halves of 32 numbers, in their order.
INLINE __m512i uppers(vec left, vec right) {
  __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21,
                                 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16((__m512i)left, odd, (__m512i)right);
}

// Puts two rows of 32 numbers, at an even row. Exact ones have no second part.
INLINE void put_halves(struct halves *h, long row, long column, vec v[2][2], int exact) {
  vec rest[2][2];
  uint16_t *left = h->left[0] + (row / SIDE * (PANEL / WIDTH) + column / WIDTH) * TILE + row % SIDE * WIDTH;
  uint16_t *right = h->right[0] + column / SIDE * TILE + row / 2 * WIDTH;
  UNROLL for (int i = 0; i < 2; i++) {
    _mm512_store_si512(left + i * WIDTH, uppers(v[i][0], v[i][1]));
    if (exact) continue;
    UNROLL for (int half = 0; half < 2; half++) rest[i][half] = v[i][half] - upper(v[i][half]);
    _mm512_store_si512(left + BAND * PANEL + i * WIDTH, (__m512i)_mm512_cvtne2ps_pbh(rest[i][1], rest[i][0]));
  }
  UNROLL for (int half = 0; half < 2; half++) {
    *(bits *)(right + half * TILE) = interleaved(v[0][half], v[1][half]);
    if (exact) continue;
    *(bits *)(right + BAND * PANEL + half * TILE) = interleaved(raised(rest[0][half]), raised(rest[1][half]));
  }
}

// 16 numbers, `stride` apart.
INLINE vec gathered(const float *p, long stride) {
  __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32(stride)), p, 4);
}

// Left operands of B^T or D^T, times the amplitude if one is given: for each band and 16 ranks, a tile of upper halves
// and one of the rest.
static void tall_tiles(const struct pair *p, long rows, const float *amplitude) {
  uint16_t *out = p->tall_tiles;
  for (long band = 0; band < rows; band += BAND)
    for (long first = 0; first < p->rank; first += SIDE, out += 2 * TILE)
      for (long r = 0; r < SIDE; r++) {
        vec v[2] = {all(0), all(0)};
        if (first + r < p->rank)
          UNROLL for (int half = 0; half < 2; half++) {
            v[half] = gathered(p->tall + (band + half * SIDE) * p->rank + first + r, p->rank);
            if (amplitude) v[half] *= at(amplitude + band + half * SIDE);
          }
        vec near[2] = {upper(raised(v[0])), upper(raised(v[1]))};
        _mm512_store_si512(out + r * WIDTH, uppers(near[0], near[1]));
        _mm512_store_si512(out + TILE + r * WIDTH, (__m512i)_mm512_cvtne2ps_pbh(v[1] - near[1], v[0] - near[0]));
      }
}

// Right operands of A^T or C^T of a panel: for each 16 ranks and 32 columns, a tile of upper halves and one of the rest.
static void wide_tiles(const struct pair *p, long used) {
  uint16_t *out = p->wide_tiles;
  for (long r = 0; r < p->padded; r += SIDE)
    for (long j = 0; j < used; j += WIDTH, out += 2 * TILE)
      for (long i = 0; i < SIDE; i++) {
        const float *from = p->transposed + (j + 2 * i) * p->padded + r;
        vec even = at(from), odd = at(from + p->padded), near_even = upper(raised(even)), near_odd = upper(raised(odd));
        *(bits *)(out + i * WIDTH) = interleaved(near_even, near_odd);
        *(bits *)(out + TILE + i * WIDTH) = interleaved(raised(even - near_even), raised(odd - near_odd));
      }
}

// The compiler does not know which memory the instructions of tiles read and write.
#define FENCE __asm__ volatile("" ::: "memory")

// `add_across` and `add_down` for a band of the rows, on tiles.
INLINE void add_tiles(const struct pair *p, long band, long used, float *across, int exact) {
  const struct halves *H = (const struct halves *)p->upstream;
  const uint16_t *tall = p->tall_tiles + 2 * band * p->padded, *wide = p->wide_tiles;
  float *down = p->down + band * p->padded;
  FENCE;
  for (long r = 0; r < p->padded; r += SIDE, tall += 2 * TILE) {
    _tile_loadd(2, tall, 64);
    _tile_loadd(3, tall + TILE, 64);
    for (long j = 0; j < used; j += WIDTH) {
      float *out = across + r * PANEL + j;
      const uint16_t *high = H->right[0] + j / SIDE * TILE, *low = H->right[1] + j / SIDE * TILE;
      _tile_loadd(0, out, 4 * PANEL);
      _tile_loadd(1, out + SIDE, 4 * PANEL);
      _tile_loadd(4, high, 64);
      _tile_loadd(5, high + TILE, 64);
      _tile_dpbf16ps(0, 2, 4);
      _tile_dpbf16ps(1, 2, 5);
      _tile_dpbf16ps(0, 3, 4);
      _tile_dpbf16ps(1, 3, 5);
      if (!exact) {
        _tile_loadd(6, low, 64);
        _tile_loadd(7, low + TILE, 64);
        _tile_dpbf16ps(0, 2, 6);
        _tile_dpbf16ps(1, 2, 7);
      }
      _tile_stored(0, out, 4 * PANEL);
      _tile_stored(1, out + SIDE, 4 * PANEL);
    }
  }
  for (long r = 0; r < p->padded; r += SIDE) {
    _tile_loadd(0, down + r, 4 * p->padded);
    _tile_loadd(1, down + SIDE * p->padded + r, 4 * p->padded);
    for (long j = 0; j < used; j += WIDTH, wide += 2 * TILE) {
      const uint16_t *high = H->left[0] + j / WIDTH * TILE, *low = H->left[1] + j / WIDTH * TILE;
      _tile_loadd(2, wide, 64);
      _tile_loadd(3, wide + TILE, 64);
      _tile_loadd(4, high, 64);
      _tile_loadd(5, high + PANEL / WIDTH * TILE, 64);
      _tile_dpbf16ps(0, 4, 2);
      _tile_dpbf16ps(1, 5, 2);
      _tile_dpbf16ps(0, 4, 3);
      _tile_dpbf16ps(1, 5, 3);
      if (!exact) {
        _tile_loadd(6, low, 64);
        _tile_loadd(7, low + PANEL / WIDTH * TILE, 64);
        _tile_dpbf16ps(0, 6, 2);
        _tile_dpbf16ps(1, 7, 2);
      }
    }
    _tile_stored(0, down + r, 4 * p->padded);
    _tile_stored(1, down + SIDE * p->padded + r, 4 * p->padded);
  }
  FENCE;
}
