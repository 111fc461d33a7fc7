// Response normalisation and its gradient on a CPU, for rows of channels that lie side by side in memory.
//
// The formulas are lrn.py's, for β = 3/4 and an odd window of n channels. A row is read once, worked on in the first
// cache in float32, and written once, rounded once. Compiled by native.py for the processor at hand; the loops are
// written for the compiler to make vectors of, and the threads are those of torch.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int MOST = 4096;  // channels

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

inline void put(bfloat16 &to, float x) {  // to the nearest, of two the even one
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The sum over the window around channel c, of values that lie from channel −n/2 on.
template <int n>
inline float window(const float *values, int c) {
    float sum = values[c];
    for (int j = 1; j < n; j++) sum += values[c + j];
    return sum;
}

// A row's values with zeros around them, as `window` wants them.
template <int n>
struct Padded {
    float values[MOST + n - 1];

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
    const float factor = 1.5f * alpha;  // 2αβ/n: `alpha` comes divided by n
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const T *__restrict from = x + row * channels;
        const T *__restrict grad = g + row * channels;
        T *__restrict to = dx + row * channels;
        Padded<n> squares(channels), across(channels);
        float through[MOST];
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
