// Response normalisation and its gradient on a CPU, for rows of channels that lie side by side in memory.
//
// The formulas are lrn.py's, for β = 3/4 and an odd window of n channels. Each row is read once, computed in float32 in
// the first-level cache, rounded once and written once. native.py compiles this file for the processor at hand; the
// loops are written so that the compiler vectorises them, and the threads are torch's.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int MAX_CHANNELS = 4096;

struct bfloat16 {
    uint16_t bits;  // the upper half of a float32
};

inline float wide(float x) { return x; }

inline float wide(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void put(float &to, float x) { to = x; }

inline void put(bfloat16 &to, float x) {  // round to nearest even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The sum over the window around channel c; `values` begins at channel −n/2.
template <int n>
inline float window(const float *values, int c) {
    float sum = values[c];
    for (int j = 1; j < n; j++) sum += values[c + j];
    return sum;
}

// A row's values with n/2 zeros on both sides, as `window` needs them.
template <int n>
struct Padded {
    float values[MAX_CHANNELS + n - 1];

    explicit Padded(int channels) {
        for (int j = 0; j < n / 2; j++) values[j] = values[n / 2 + channels + j] = 0;
    }
    float &operator[](int c) { return values[n / 2 + c]; }
};

template <typename T, int n>
void forward(const T *x, T *y, int64_t rows, int channels, float alpha, float k) {
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const T *__restrict from = x + row * channels;
        T *__restrict to = y + row * channels;
        Padded<n> squares(channels);
        for (int c = 0; c < channels; c++) squares[c] = wide(from[c]) * wide(from[c]);
        for (int c = 0; c < channels; c++) {
            const float root = 1 / std::sqrt(k + alpha * window<n>(squares.values, c));  // d^(−1/2)
            put(to[c], wide(from[c]) * (root * std::sqrt(root)));
        }
    }
}

template <typename T, int n>
void backward(const T *x, const T *g, T *dx, int64_t rows, int channels, float alpha, float k) {
    const float factor = 1.5f * alpha;  // 2αβ/n: `alpha` is already divided by n
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const T *__restrict from = x + row * channels;
        const T *__restrict grad = g + row * channels;
        T *__restrict to = dx + row * channels;
        Padded<n> squares(channels), across(channels);
        float through[MAX_CHANNELS];
        for (int c = 0; c < channels; c++) squares[c] = wide(from[c]) * wide(from[c]);
        for (int c = 0; c < channels; c++) {
            const float root = 1 / std::sqrt(k + alpha * window<n>(squares.values, c));
            through[c] = wide(grad[c]) * (root * std::sqrt(root));  // g / d^β
            across[c] = through[c] * wide(from[c]) * (root * root);
        }
        for (int c = 0; c < channels; c++)
            put(to[c], through[c] - factor * wide(from[c]) * window<n>(across.values, c));
    }
}

}  // namespace

#define ROWS(type, n)                                                                                                  \
    extern "C" void forward_##type##_##n(const type *x, type *y, int64_t rows, int channels, float alpha, float k) {   \
        forward<type, n>(x, y, rows, channels, alpha, k);                                                              \
    }                                                                                                                  \
    extern "C" void backward_##type##_##n(                                                                             \
        const type *x, const type *g, type *dx, int64_t rows, int channels, float alpha, float k) {                    \
        backward<type, n>(x, g, dx, rows, channels, alpha, k);                                                         \
    }

using float32 = float;
ROWS(float32, 5)
ROWS(bfloat16, 5)
ROWS(float32, 9)
ROWS(bfloat16, 9)
