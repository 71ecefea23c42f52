// Element-wise programs, and copies of elements of any width, over a loop nest. A register holds a float or, for
// integers and booleans, 64 bits; which of them is known where the program is made. Floats narrower than f32 are
// widened when they are loaded and rounded when they are stored.
#pragma once
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

constexpr unsigned ELEMENTWISE_RANK_MAX = 8;
constexpr unsigned ELEMENTWISE_INPUTS_MAX = 8;
constexpr unsigned ELEMENTWISE_STEPS_MAX = 32;

enum Type : unsigned {
  TYPE_F32,
  TYPE_F16,
  TYPE_BF16,
  TYPE_I64,
  TYPE_I32,
  TYPE_I16,
  TYPE_I8,
  TYPE_U64,
  TYPE_U32,
  TYPE_U16,
  TYPE_U8,
  TYPE_BOOL,
};

enum StepKind : unsigned {
  STEP_LOAD,
  STEP_CONSTANT_FLOAT,
  STEP_CONSTANT_INT,
  // Of floats.
  STEP_UNARY,
  STEP_ADD,
  STEP_SUB,
  STEP_MUL,
  STEP_DIV,
  STEP_MAX,
  STEP_MIN,
  STEP_POW,
  STEP_MOD,
  STEP_REM,
  STEP_EQUAL,
  STEP_LESS,
  STEP_LESS_EQUAL,
  STEP_GREATER,
  STEP_GREATER_EQUAL,
  // Of integers.
  STEP_INT_UNARY,
  STEP_INT_ADD,
  STEP_INT_SUB,
  STEP_INT_MUL,
  STEP_INT_DIV,
  STEP_INT_MAX,
  STEP_INT_MIN,
  STEP_INT_POW,
  STEP_INT_MOD,
  STEP_INT_REM,
  STEP_INT_EQUAL,
  STEP_INT_LESS,
  STEP_INT_LESS_EQUAL,
  STEP_INT_GREATER,
  STEP_INT_GREATER_EQUAL,
  STEP_INT_AND,
  STEP_INT_OR,
  STEP_INT_XOR,
  STEP_INT_BIT_AND,
  STEP_INT_BIT_OR,
  STEP_INT_BIT_XOR,
  STEP_INT_SHIFT_LEFT,
  STEP_INT_SHIFT_RIGHT,
  // Of whatever there is.
  STEP_WHERE,
  STEP_FLOAT_OF_INT,
  STEP_INT_OF_FLOAT,
  STEP_WRAP,
  STEP_RANGE_OF_FLOAT,
  STEP_NARROW,
};

// An instruction; its result is the register with its position.
struct Step {
  // Of a range, the lower bound in the lower half and the upper one in the upper half.
  long long constant;
  unsigned kind;
  // Operand, or registers.
  unsigned a, b, c;
  // Of what is wrapped.
  unsigned type;
  // The function; `a` of it is a constant's value.
  Function function;
};

struct ElementwiseInput {
  Operand operand;
  // Elements from one index of an axis to the next.
  long long strides[ELEMENTWISE_RANK_MAX];
  unsigned type;
  unsigned reserved;
};

struct ElementwiseDescriptor {
  Operand y;
  ElementwiseInput inputs[ELEMENTWISE_INPUTS_MAX];
  long long out_strides[ELEMENTWISE_RANK_MAX];
  unsigned long long elements;
  unsigned dims[ELEMENTWISE_RANK_MAX];
  unsigned rank;
  // Elements of a block.
  unsigned tile;
  // Bytes of an element that is copied as it is; 0 runs the program.
  unsigned copied_bytes;
  unsigned step_count;
  unsigned out_type;
  unsigned reserved;
  Step steps[ELEMENTWISE_STEPS_MAX];
};

#ifdef ELEMENTWISE_DESCRIPTOR_BYTES
static_assert(sizeof(ElementwiseDescriptor) == ELEMENTWISE_DESCRIPTOR_BYTES,
              "the host has another idea of the descriptor");
#endif

union Register {
  float f;
  long long i;
};

// The offset of flat position `flat` by some strides.
__device__ inline long long offset_of(const ElementwiseDescriptor &d, unsigned flat, const long long *strides) {
  long long at = 0;
  for (unsigned axis = d.rank; axis-- > 0;) {
    const unsigned extent = d.dims[axis];
    const unsigned outer = flat / extent;
    at += (flat - outer * extent) * strides[axis];
    flat = outer;
  }
  return at;
}

template <class T>
__device__ void copy_one(const ElementwiseDescriptor &d, const Places &places, unsigned flat) {
  const T *const from = places.at<const T>(d.inputs[0].operand);
  places.at<T>(d.y)[offset_of(d, flat, d.out_strides)] = from[offset_of(d, flat, d.inputs[0].strides)];
}

__device__ inline Register load_element(const void *from, unsigned type, long long at) {
  Register made;
  switch (type) {
    case TYPE_F32:
      made.f = static_cast<const float *>(from)[at];
      break;
    case TYPE_F16:
      made.f = of_half(static_cast<const unsigned short *>(from)[at]);
      break;
    case TYPE_BF16:
      made.f = of_bits(static_cast<unsigned>(static_cast<const unsigned short *>(from)[at]) << 16);
      break;
    case TYPE_I32:
      made.i = static_cast<const int *>(from)[at];
      break;
    case TYPE_I16:
      made.i = static_cast<const short *>(from)[at];
      break;
    case TYPE_I8:
      made.i = static_cast<const signed char *>(from)[at];
      break;
    case TYPE_U32:
      made.i = static_cast<const unsigned *>(from)[at];
      break;
    case TYPE_U16:
      made.i = static_cast<const unsigned short *>(from)[at];
      break;
    case TYPE_U8:
    case TYPE_BOOL:
      made.i = static_cast<const unsigned char *>(from)[at];
      break;
    default:
      made.i = static_cast<const long long *>(from)[at];
  }
  return made;
}

// The upper half of a float, rounded to the nearest, ties to even; a NaN stays one.
__device__ inline unsigned short to_brain(float value) {
  const unsigned bits = bits_of(value);
  if (value != value) return static_cast<unsigned short>(bits >> 16 | 0x40);
  return static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// A float as one of 16 bits holds it.
__device__ inline float narrowed(float value, unsigned type) {
  return type == TYPE_F16 ? of_half(to_half(value)) : of_bits(static_cast<unsigned>(to_brain(value)) << 16);
}

__device__ inline void store_element(void *to, unsigned type, long long at, Register value) {
  switch (type) {
    case TYPE_F32:
      static_cast<float *>(to)[at] = value.f;
      break;
    case TYPE_F16:
      static_cast<unsigned short *>(to)[at] = to_half(value.f);
      break;
    case TYPE_BF16:
      static_cast<unsigned short *>(to)[at] = to_brain(value.f);
      break;
    case TYPE_I32:
    case TYPE_U32:
      static_cast<unsigned *>(to)[at] = static_cast<unsigned>(value.i);
      break;
    case TYPE_I16:
    case TYPE_U16:
      static_cast<unsigned short *>(to)[at] = static_cast<unsigned short>(value.i);
      break;
    case TYPE_I8:
    case TYPE_U8:
      static_cast<unsigned char *>(to)[at] = static_cast<unsigned char>(value.i);
      break;
    case TYPE_BOOL:
      static_cast<unsigned char *>(to)[at] = value.i != 0;
      break;
    default:
      static_cast<long long *>(to)[at] = value.i;
  }
}

// Truncated; what is too large is the largest there is, and a NaN is 0.
__device__ inline long long int_of(float value) {
  constexpr float END = 9223372036854775808.f;
  if (value != value) return 0;
  if (value >= END) return 0x7FFFFFFFFFFFFFFFll;
  if (value < -END) return -0x7FFFFFFFFFFFFFFFll - 1;
  return static_cast<long long>(value);
}

// The nearest, ties to even, kept within the two bounds of a step; a NaN is the lower one.
__device__ inline long long int_in_range(float value, long long bounds) {
  const long long low = static_cast<int>(bounds), high = bounds >> 32;
  if (value != value) return low;
  const long long nearest = int_of(rintf(value));
  return nearest < low ? low : nearest > high ? high : nearest;
}

__device__ inline long long wrap(long long value, unsigned type) {
  switch (type) {
    case TYPE_I32:
      return static_cast<int>(value);
    case TYPE_I16:
      return static_cast<short>(value);
    case TYPE_I8:
      return static_cast<signed char>(value);
    case TYPE_U32:
      return static_cast<unsigned>(value);
    case TYPE_U16:
      return static_cast<unsigned short>(value);
    case TYPE_U8:
      return static_cast<unsigned char>(value);
    case TYPE_BOOL:
      return value != 0;
    default:
      return value;
  }
}

__device__ inline float combine(unsigned kind, float a, float b) {
  switch (kind) {
    case STEP_ADD:
      return a + b;
    case STEP_SUB:
      return a - b;
    case STEP_MUL:
      return a * b;
    case STEP_DIV:
      return a / b;
    case STEP_MAX:
      return larger(a, b);
    case STEP_MIN:
      return smaller(a, b);
    case STEP_MOD:
    case STEP_REM: {
      const float rest = fmodf(a, b);
      if (kind == STEP_REM) return rest;
      if (rest == 0.f) return copysignf(rest, b);
      return (rest < 0.f) != (b < 0.f) ? rest + b : rest;
    }
    default:
      return powf(a, b);
  }
}

__device__ inline bool compare(unsigned kind, float a, float b) {
  switch (kind) {
    case STEP_EQUAL:
      return a == b;
    case STEP_LESS:
      return a < b;
    case STEP_LESS_EQUAL:
      return a <= b;
    case STEP_GREATER:
      return a > b;
    default:
      return a >= b;
  }
}

// Arithmetic wraps.
__device__ inline long long combine_ints(unsigned kind, long long a, long long b, const Context &context) {
  const unsigned long long left = static_cast<unsigned long long>(a);
  const unsigned long long right = static_cast<unsigned long long>(b);
  switch (kind) {
    case STEP_INT_ADD:
      return static_cast<long long>(left + right);
    case STEP_INT_SUB:
      return static_cast<long long>(left - right);
    case STEP_INT_MUL:
      return static_cast<long long>(left * right);
    case STEP_INT_DIV:
      if (b == 0) context.fail(0);
      // The one quotient that does not fit wraps, too.
      return b == 0 ? 0 : b == -1 ? static_cast<long long>(0 - left) : a / b;
    case STEP_INT_MOD:
    case STEP_INT_REM: {
      if (b == 0) context.fail(0);
      const long long rest = b == 0 || b == -1 ? 0 : a % b;
      return kind == STEP_INT_MOD && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    }
    case STEP_INT_MAX:
      return a > b ? a : b;
    case STEP_INT_MIN:
      return a < b ? a : b;
    case STEP_INT_POW: {
      // Truncated, as the quotient of 1 is.
      if (b < 0) return a == 1 ? 1 : a == -1 ? 1 - 2 * (b & 1) : 0;
      unsigned long long made = 1, base = left;
      for (unsigned long long rest = right; rest > 0; rest >>= 1) {
        if (rest & 1) made *= base;
        base *= base;
      }
      return static_cast<long long>(made);
    }
    case STEP_INT_EQUAL:
      return a == b;
    case STEP_INT_LESS:
      return a < b;
    case STEP_INT_LESS_EQUAL:
      return a <= b;
    case STEP_INT_GREATER:
      return a > b;
    case STEP_INT_GREATER_EQUAL:
      return a >= b;
    case STEP_INT_AND:
      return a != 0 && b != 0;
    case STEP_INT_OR:
      return a != 0 || b != 0;
    case STEP_INT_BIT_AND:
      return a & b;
    case STEP_INT_BIT_OR:
      return a | b;
    case STEP_INT_BIT_XOR:
      return a ^ b;
    case STEP_INT_SHIFT_LEFT:
      return right < 64 ? static_cast<long long>(left << right) : 0;
    case STEP_INT_SHIFT_RIGHT:
      return right < 64 ? static_cast<long long>(left >> right) : 0;
    default:
      return (a != 0) != (b != 0);
  }
}

__device__ inline long long apply_to_int(const Function &function, long long x) {
  const unsigned long long bits = static_cast<unsigned long long>(x);
  switch (function.which) {
    case UNARY_RELU:
      return x < 0 ? 0 : x;
    case UNARY_CLIP: {
      const long long low = int_of(function.a), high = int_of(function.b);
      const long long lifted = x < low ? low : x;
      return lifted > high ? high : lifted;
    }
    case UNARY_SQUARE:
      return static_cast<long long>(bits * bits);
    case UNARY_ABS:
      return x < 0 ? static_cast<long long>(0 - bits) : x;
    case UNARY_NEG:
      return static_cast<long long>(0 - bits);
    case UNARY_SIGN:
      return (x > 0) - (x < 0);
    case UNARY_NOT:
      return x == 0;
    case UNARY_BIT_NOT:
      return ~x;
    default:
      return x;
  }
}

__device__ inline Register run_step(const Step &step, const Register *registers, const Context &context) {
  const Register a = registers[step.a], b = registers[step.b];
  Register made;
  if (step.kind >= STEP_INT_ADD && step.kind <= STEP_INT_SHIFT_RIGHT) {
    made.i = combine_ints(step.kind, a.i, b.i, context);
  } else if (step.kind >= STEP_EQUAL && step.kind <= STEP_GREATER_EQUAL) {
    made.i = compare(step.kind, a.f, b.f);
  } else if (step.kind >= STEP_ADD && step.kind <= STEP_REM) {
    made.f = combine(step.kind, a.f, b.f);
  } else {
    switch (step.kind) {
      case STEP_CONSTANT_FLOAT:
        made.f = step.function.a;
        break;
      case STEP_CONSTANT_INT:
        made.i = step.constant;
        break;
      case STEP_UNARY:
        made.f = apply(step.function, a.f);
        break;
      case STEP_INT_UNARY:
        made.i = apply_to_int(step.function, a.i);
        break;
      case STEP_WHERE:
        made = a.i != 0 ? b : registers[step.c];
        break;
      case STEP_FLOAT_OF_INT:
        made.f = static_cast<float>(a.i);
        break;
      case STEP_INT_OF_FLOAT:
        made.i = wrap(int_of(a.f), step.type);
        break;
      case STEP_RANGE_OF_FLOAT:
        made.i = int_in_range(a.f, step.constant);
        break;
      case STEP_NARROW:
        made.f = narrowed(a.f, step.type);
        break;
      default:
        made.i = wrap(a.i, step.type);
    }
  }
  return made;
}

__device__ inline void run_program(const ElementwiseDescriptor &d, const Places &places, unsigned flat,
                                   const Context &context) {
  Register registers[ELEMENTWISE_STEPS_MAX];
  for (unsigned index = 0; index < d.step_count; index++) {
    const Step &step = d.steps[index];
    if (step.kind == STEP_LOAD) {
      const ElementwiseInput &input = d.inputs[step.a];
      const void *const from = places.at<const unsigned char>(input.operand);
      registers[index] = load_element(from, input.type, offset_of(d, flat, input.strides));
    } else {
      registers[index] = run_step(step, registers, context);
    }
  }
  unsigned char *const to = places.at<unsigned char>(d.y);
  store_element(to, d.out_type, offset_of(d, flat, d.out_strides), registers[d.step_count - 1]);
}

REEF_TILE bool elementwise_tile(const ElementwiseDescriptor &d, const Places &places, unsigned block,
                                const Context &context) {
  // There are at most 2^31 elements, so that numbers of them have 32 bits.
  const unsigned begin = block * d.tile;
  const unsigned rest = static_cast<unsigned>(d.elements) - begin;
  const unsigned end = begin + (rest < d.tile ? rest : d.tile);
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned flat = begin + threadIdx.x; flat < end; flat += THREADS) {
    switch (d.copied_bytes) {
      case 0:
        run_program(d, places, flat, context);
        break;
      case 1:
        copy_one<unsigned char>(d, places, flat);
        break;
      case 2:
        copy_one<unsigned short>(d, places, flat);
        break;
      case 4:
        copy_one<unsigned>(d, places, flat);
        break;
      default:
        copy_one<unsigned long long>(d, places, flat);
    }
  }
  return true;
}

}  // namespace reef
