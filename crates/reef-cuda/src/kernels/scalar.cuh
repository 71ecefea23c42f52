// Functions of elements, by number: the numbers are those of `scalar.rs`.
#pragma once
#include "tile.cuh"

namespace reef {

enum Unary : unsigned {
  UNARY_NONE,
  UNARY_RELU,
  UNARY_LEAKY_RELU,
  UNARY_ELU,
  UNARY_CLIP,
  UNARY_SIGMOID,
  UNARY_HARD_SIGMOID,
  UNARY_SILU,
  UNARY_HARD_SWISH,
  UNARY_TANH,
  UNARY_GELU,
  UNARY_GELU_TANH,
  UNARY_ERF,
  UNARY_SOFTPLUS,
  UNARY_EXP,
  UNARY_LOG,
  UNARY_SQRT,
  UNARY_RSQRT,
  UNARY_RECIP,
  UNARY_SQUARE,
  UNARY_ABS,
  UNARY_NEG,
  UNARY_SIGN,
  UNARY_FLOOR,
  UNARY_CEIL,
  UNARY_ROUND,
  UNARY_SIN,
  UNARY_COS,
  UNARY_NOT,
  UNARY_TAN,
  UNARY_ASIN,
  UNARY_ACOS,
  UNARY_ATAN,
  UNARY_SINH,
  UNARY_COSH,
  UNARY_ASINH,
  UNARY_ACOSH,
  UNARY_ATANH,
  UNARY_BIT_NOT,
  UNARY_ENCODE,
  UNARY_DECODE,
};

// Formats of at most 8 bits, in the order of `reef_graph::SmallFloat`.
enum SmallFloat : unsigned {
  SMALL_E4M3FN,
  SMALL_E4M3FNUZ,
  SMALL_E5M2,
  SMALL_E5M2FNUZ,
  SMALL_E8M0,
  SMALL_E2M1,
};

// As NumPy has it: a NaN wins.
__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b || a != a ? a : b; }

// A function with its parameters.
struct Function {
  unsigned which;
  float a;
  float b;
};

__device__ __forceinline__ float hard_sigmoid(float x, float alpha, float beta) {
  const float y = alpha * x + beta;
  return y < 0.f ? 0.f : y > 1.f ? 1.f : y;
}

// 2 to the n, for n from -126 to 127.
__device__ __forceinline__ float power_of_two(int n) { return of_bits(static_cast<unsigned>(n + 127) << 23); }

// The number with this code in a small format.
__device__ __noinline__ float decode_small(unsigned format, unsigned code) {
  if (format == SMALL_E8M0)
    return code == 255 ? of_bits(0x7FC00000u) : of_bits(code ? code << 23 : 1u << 22);
  const unsigned sign = format == SMALL_E2M1 ? 8u : 128u;
  const unsigned size = code & (sign - 1);
  const bool negative = code & sign;
  const bool unsigned_nan = format == SMALL_E4M3FNUZ || format == SMALL_E5M2FNUZ;
  const int mantissa = format <= SMALL_E4M3FNUZ ? 3 : format == SMALL_E2M1 ? 1 : 2;
  const int bias = format == SMALL_E4M3FN     ? 7
                   : format == SMALL_E4M3FNUZ ? 8
                   : format == SMALL_E5M2     ? 15
                   : format == SMALL_E2M1     ? 1
                                              : 16;
  float value;
  if ((unsigned_nan && negative && size == 0) || (format == SMALL_E4M3FN && size == 0x7F) ||
      (format == SMALL_E5M2 && size > 0x7C)) {
    value = of_bits(0x7FC00000u);
  } else if (format == SMALL_E5M2 && size == 0x7C) {
    value = of_bits(0x7F800000u);
  } else {
    const int exponent = size >> mantissa;
    const int steps = (size & ((1 << mantissa) - 1)) + (exponent ? 1 << mantissa : 0);
    value = steps * power_of_two((exponent ? exponent : 1) - bias - mantissa);
  }
  return negative ? -value : value;
}

// The code of a power of two near the size of x.
__device__ __forceinline__ unsigned encode_power(bool saturates, unsigned rounding, float x) {
  const unsigned least = 1u << 22;
  const unsigned bits = bits_of(x) & 0x7FFFFFFFu;
  const unsigned exponent = bits >> 23, mantissa = bits & 0x7FFFFFu;
  if (exponent == 255) return mantissa == 0 && saturates ? 254 : 255;
  if (exponent == 0 && mantissa < least) return saturates ? 0 : 255;
  const unsigned rest = exponent ? mantissa : mantissa - least;
  const unsigned middle = exponent ? least : least / 2;
  const unsigned code = exponent + (rounding == 0 ? rest > 0 : rounding == 2 ? rest >= middle : 0);
  return code == 255 && saturates ? 254 : code;
}

// The code of a number in a small format; `how` is as `scalar.rs` makes it.
__device__ __noinline__ unsigned encode_small(unsigned how, float x) {
  const unsigned format = how & 7;
  const bool saturates = how & 8;
  if (format == SMALL_E8M0) return encode_power(saturates, how >> 4, x);
  const bool has_signs = format != SMALL_E4M3FNUZ && format != SMALL_E5M2FNUZ;
  const unsigned top = format == SMALL_E2M1 ? 8u : 128u;
  const unsigned negative = bits_of(x) >> 31 ? top : 0u;
  const unsigned sign = has_signs ? negative : 0u;
  const int mantissa = format <= SMALL_E4M3FNUZ ? 3 : format == SMALL_E2M1 ? 1 : 2;
  const int least = format == SMALL_E4M3FN     ? -6
                    : format == SMALL_E4M3FNUZ ? -7
                    : format == SMALL_E5M2     ? -14
                    : format == SMALL_E2M1     ? 0
                                               : -15;
  const int largest = format == SMALL_E4M3FN ? 0x7E
                      : format == SMALL_E5M2 ? 0x7B
                      : format == SMALL_E2M1 ? 0x7
                                             : 0x7F;
  if (x != x) return (format == SMALL_E4M3FN ? 0x7F : format == SMALL_E5M2 ? 0x7E : top) | sign;
  const float size = fabsf(x);
  if (size <= 65536.f) {
    int exponent = static_cast<int>(bits_of(size) >> 23) - 127;
    exponent = exponent < least ? least : exponent;
    const int steps = static_cast<int>(rintf(size * power_of_two(mantissa - exponent)));
    const int code = ((exponent - least) << mantissa) + steps;
    if (code <= largest) return code | (code == 0 ? sign : negative);
  }
  if (saturates || format == SMALL_E2M1) return largest | negative;
  return (format == SMALL_E4M3FN ? 0x7F : format == SMALL_E5M2 ? 0x7C : 0x80) | sign;
}

// What is long, or seldom applied to results of products: code of its own.
__device__ __noinline__ float apply_rare(unsigned which, float a, float x) {
  switch (which) {
    case UNARY_ELU:
      return x > 0.f ? x : a * expm1f(x);
    case UNARY_TANH:
      return tanhf(x);
    case UNARY_GELU:
      return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    case UNARY_GELU_TANH:
      return 0.5f * x * (1.f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case UNARY_ERF:
      return erff(x);
    case UNARY_SOFTPLUS:
      return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x)));
    case UNARY_EXP:
      return expf(x);
    case UNARY_LOG:
      return logf(x);
    case UNARY_SQRT:
      return sqrtf(x);
    case UNARY_RSQRT:
      return 1.f / sqrtf(x);
    case UNARY_RECIP:
      return 1.f / x;
    case UNARY_SQUARE:
      return x * x;
    case UNARY_ABS:
      return fabsf(x);
    case UNARY_NEG:
      return -x;
    case UNARY_SIGN:
      return x > 0.f ? 1.f : x < 0.f ? -1.f : x;
    case UNARY_FLOOR:
      return floorf(x);
    case UNARY_CEIL:
      return ceilf(x);
    case UNARY_ROUND:
      return rintf(x);
    case UNARY_SIN:
      return sinf(x);
    case UNARY_COS:
      return cosf(x);
    case UNARY_NOT:
      return x == 0.f ? 1.f : 0.f;
    case UNARY_TAN:
      return tanf(x);
    case UNARY_ASIN:
      return asinf(x);
    case UNARY_ACOS:
      return acosf(x);
    case UNARY_ATAN:
      return atanf(x);
    case UNARY_SINH:
      return sinhf(x);
    case UNARY_COSH:
      return coshf(x);
    case UNARY_ASINH:
      return asinhf(x);
    case UNARY_ACOSH:
      return acoshf(x);
    case UNARY_ATANH:
      return atanhf(x);
    case UNARY_ENCODE:
      return encode_small(static_cast<unsigned>(a), x);
    case UNARY_DECODE:
      return decode_small(static_cast<unsigned>(a), static_cast<unsigned>(x > 0.f ? x < 255.f ? x : 255.f : 0.f));
    default:
      return x;
  }
}

__device__ __forceinline__ float apply(const Function &function, float x) {
  switch (function.which) {
    case UNARY_NONE:
      return x;
    case UNARY_RELU:
      return x < 0.f ? 0.f : x;
    case UNARY_LEAKY_RELU:
      return x > 0.f ? x : function.a * x;
    case UNARY_CLIP: {
      const float lifted = x < function.a ? function.a : x;
      return lifted > function.b ? function.b : lifted;
    }
    case UNARY_SIGMOID:
      return 1.f / (1.f + expf(-x));
    case UNARY_HARD_SIGMOID:
      return hard_sigmoid(x, function.a, function.b);
    case UNARY_SILU:
      return x / (1.f + expf(-x));
    case UNARY_HARD_SWISH:
      return x * hard_sigmoid(x, 1.f / 6.f, 0.5f);
    default:
      return apply_rare(function.which, function.a, x);
  }
}

}  // namespace reef
