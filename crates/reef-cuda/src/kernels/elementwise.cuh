// Element-wise programs in f32, and copies of elements of any width, over a loop nest.
#pragma once
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

constexpr unsigned ELEMENTWISE_RANK_MAX = 8;
constexpr unsigned ELEMENTWISE_INPUTS_MAX = 8;
constexpr unsigned ELEMENTWISE_STEPS_MAX = 32;

enum StepKind : unsigned {
  STEP_LOAD,
  STEP_CONSTANT,
  STEP_UNARY,
  STEP_ADD,
  STEP_SUB,
  STEP_MUL,
  STEP_DIV,
  STEP_MAX,
  STEP_MIN,
  STEP_POW,
};

// An instruction; its result is the register with its position.
struct Step {
  unsigned kind;
  // Operand, or registers.
  unsigned a, b;
  // The function; `a` of it is a constant's value.
  Function function;
};

struct ElementwiseInput {
  Operand operand;
  // Elements from one index of an axis to the next.
  long long strides[ELEMENTWISE_RANK_MAX];
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
  Step steps[ELEMENTWISE_STEPS_MAX];
};

#ifdef ELEMENTWISE_DESCRIPTOR_BYTES
static_assert(sizeof(ElementwiseDescriptor) == ELEMENTWISE_DESCRIPTOR_BYTES,
              "the host has another idea of the descriptor");
#endif

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
    default:
      return powf(a, b);
  }
}

// The offset of flat position `flat` by some strides.
__device__ inline long long offset_of(const ElementwiseDescriptor &d, unsigned long long flat,
                                      const long long *strides) {
  long long at = 0;
  for (unsigned axis = d.rank; axis-- > 0;) {
    at += static_cast<long long>(flat % d.dims[axis]) * strides[axis];
    flat /= d.dims[axis];
  }
  return at;
}

template <class T>
__device__ void copy_one(const ElementwiseDescriptor &d, const Places &places, unsigned long long flat) {
  const T *const from = places.at<const T>(d.inputs[0].operand);
  places.at<T>(d.y)[offset_of(d, flat, d.out_strides)] = from[offset_of(d, flat, d.inputs[0].strides)];
}

__device__ inline float run_program(const ElementwiseDescriptor &d, const Places &places, unsigned long long flat) {
  float registers[ELEMENTWISE_STEPS_MAX];
  for (unsigned index = 0; index < d.step_count; index++) {
    const Step &step = d.steps[index];
    float made;
    switch (step.kind) {
      case STEP_LOAD: {
        const ElementwiseInput &input = d.inputs[step.a];
        made = places.at<const float>(input.operand)[offset_of(d, flat, input.strides)];
        break;
      }
      case STEP_CONSTANT:
        made = step.function.a;
        break;
      case STEP_UNARY:
        made = apply(step.function, registers[step.a]);
        break;
      default:
        made = combine(step.kind, registers[step.a], registers[step.b]);
    }
    registers[index] = made;
  }
  return registers[d.step_count - 1];
}

REEF_TILE bool elementwise_tile(const ElementwiseDescriptor &d, const Places &places, unsigned block,
                                              const Context &context) {
  const unsigned long long begin = static_cast<unsigned long long>(block) * d.tile;
  const unsigned long long rest = d.elements - begin;
  const unsigned long long end = begin + (rest < d.tile ? rest : d.tile);
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned long long flat = begin + threadIdx.x; flat < end; flat += THREADS) {
    switch (d.copied_bytes) {
      case 0:
        places.at<float>(d.y)[offset_of(d, flat, d.out_strides)] = run_program(d, places, flat);
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
