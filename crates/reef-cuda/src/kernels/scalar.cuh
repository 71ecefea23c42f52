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
