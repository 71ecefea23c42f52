// One direction of a recurrent network. A block takes a few sequences through all the steps: their states stay in
// shared memory, and the weights come from the cache in every step. Products are f32; a thread sums those of one
// column of every gate, for all sequences of the block, in an order that only the number of columns says.
//
// It polls between steps, though it writes as it goes: it reads nothing that it writes, so that a run from the start
// writes the same.
#pragma once
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

// Sequences of a block at most.
constexpr unsigned RECURRENT_ROWS = 4;

enum RecurrentCell : unsigned { CELL_RNN, CELL_GRU, CELL_GRU_LINEAR, CELL_LSTM, CELL_LSTM_COUPLED };

// Functions that only gates have, by number behind those of `Unary`.
enum GateFunction : unsigned { GATE_AFFINE = 64, GATE_THRESHOLDED, GATE_SCALED_TANH, GATE_SOFTSIGN };

struct RecurrentDescriptor {
  Operand sums, weights, reset_bias, peepholes, lengths, before[2], y, after[2];
  // Elements between rows of the sums, and between steps of y.
  unsigned long long sums_row_stride, y_step_stride;
  unsigned cell;
  unsigned reverse, steps, first, all_steps, batch, hidden;
  unsigned tile_rows;
  // Elements from one row of the weights to the next.
  unsigned weight_stride;
  // Threads that share a column, each with a part of k.
  unsigned parts;
  unsigned has_reset_bias, has_peepholes, has_lengths, has_before[2], has_y, has_after[2];
  unsigned clips;
  float clip;
  Function functions[3];
  unsigned reserved;
};

#ifdef RECURRENT_DESCRIPTOR_BYTES
static_assert(sizeof(RecurrentDescriptor) == RECURRENT_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

__device__ __noinline__ float gate_function(const Function &function, float x) {
  switch (function.which) {
    case GATE_AFFINE:
      return function.a * x + function.b;
    case GATE_THRESHOLDED:
      return x > function.a ? x : 0.f;
    case GATE_SCALED_TANH:
      return function.a * tanhf(function.b * x);
    case GATE_SOFTSIGN:
      return x / (1.f + fabsf(x));
    default:
      return apply(function, x);
  }
}

// What goes through a gate.
__device__ __forceinline__ float through_gate(const RecurrentDescriptor &d, unsigned function, float sum) {
  if (d.clips) sum = sum < -d.clip ? -d.clip : sum > d.clip ? d.clip : sum;
  return gate_function(d.functions[function], sum);
}

struct alignas(16) States {
  float v[RECURRENT_ROWS];
};

// Shared memory of a block: of each element of a state the states of all sequences, side by side.
struct RecurrentShared {
  // The states of two successive steps, and the memory, or what the reset gate leaves of the state.
  States *states[2], *memory;
  // Sums of parts of k, and the sequences' lengths.
  float *parts;
  unsigned *lengths;

  __device__ __forceinline__ RecurrentShared(const RecurrentDescriptor &d, unsigned char *arena) {
    states[0] = reinterpret_cast<States *>(arena);
    states[1] = states[0] + d.hidden;
    memory = states[1] + d.hidden;
    lengths = reinterpret_cast<unsigned *>(memory + d.hidden);
    parts = reinterpret_cast<float *>(lengths + RECURRENT_ROWS);
  }
};

// Multiplies the weights of gates `FIRST` to `FIRST + GATES` with states, and calls `finish(column, row, sums)` for
// every element of every sequence, from the same thread each time.
template <unsigned FIRST, unsigned GATES, class Finish>
__device__ __forceinline__ void multiply_states(const RecurrentDescriptor &d, const float *weights,
                                                const States *states, float *parts, const Context &context,
                                                Finish finish) {
  const unsigned columns = THREADS / d.parts;
  const unsigned part = threadIdx.x / columns;
  const unsigned depth = (d.hidden + d.parts - 1) / d.parts;
  const unsigned begin = part * depth;
  const unsigned end = begin + depth < d.hidden ? begin + depth : d.hidden;
  const unsigned long long gate = 1ull * d.hidden * d.weight_stride;
  for (unsigned first = 0; first < d.hidden; first += columns) {
    const unsigned column = first + threadIdx.x % columns;
    float sums[GATES][RECURRENT_ROWS] = {};
    if (column < d.hidden) {
      const float *own = weights + FIRST * gate + column + 1ull * begin * d.weight_stride;
      REEF_UNROLLED_4
      for (unsigned k = begin; k < end; k++) {
        const States state = states[k];
        REEF_UNROLLED
        for (unsigned g = 0; g < GATES; g++) {
          const float weight = own[g * gate];
          REEF_UNROLLED
          for (unsigned row = 0; row < RECURRENT_ROWS; row++) {
            sums[g][row] = fmaf(weight, state.v[row], sums[g][row]);
          }
        }
        own += d.weight_stride;
      }
    }
    if (d.parts == 1) {
      if (column >= d.hidden) continue;
      REEF_UNROLLED
      for (unsigned row = 0; row < RECURRENT_ROWS; row++) {
        float own[GATES];
        REEF_UNROLLED
        for (unsigned g = 0; g < GATES; g++) own[g] = sums[g][row];
        finish(column, row, own);
      }
      continue;
    }
    // All columns at once, so that every thread comes to these barriers once.
    REEF_UNROLLED
    for (unsigned g = 0; g < GATES; g++) {
      REEF_UNROLLED
      for (unsigned row = 0; row < RECURRENT_ROWS; row++) {
        parts[(g * RECURRENT_ROWS + row) * THREADS + threadIdx.x] = sums[g][row];
      }
    }
    context.sync();
    if (column >= d.hidden) continue;
    REEF_ROLLED
    for (unsigned row = part; row < RECURRENT_ROWS; row += d.parts) {
      float own[GATES];
      REEF_UNROLLED
      for (unsigned g = 0; g < GATES; g++) {
        own[g] = 0.f;
        for (unsigned other = 0; other < d.parts; other++) {
          own[g] += parts[(g * RECURRENT_ROWS + row) * THREADS + other * columns + column];
        }
      }
      finish(column, row, own);
    }
  }
}

REEF_TILE bool recurrent_tile(const RecurrentDescriptor &d, const Places &places, unsigned block,
                              const Context &context) {
  const RecurrentShared shared(d, context.shared);
  const unsigned hidden = d.hidden;
  const unsigned first_row = block * d.tile_rows;
  const unsigned rows = d.batch - first_row < d.tile_rows ? d.batch - first_row : d.tile_rows;
  const float *const sums = places.at<const float>(d.sums);
  const float *const weights = places.at<const float>(d.weights);
  const float *const peepholes = places.at<const float>(d.peepholes);
  const float *const reset_bias = places.at<const float>(d.reset_bias);
  float *const y = places.at<float>(d.y);
  for (unsigned at = threadIdx.x; at < hidden * RECURRENT_ROWS; at += THREADS) {
    const unsigned row = at / hidden, element = at % hidden;
    const unsigned long long from = 1ull * (first_row + row) * hidden + element;
    const auto before = [&](unsigned which) {
      return row < rows && d.has_before[which] ? places.at<const float>(d.before[which])[from] : 0.f;
    };
    shared.states[0][element].v[row] = before(0);
    // Behind the last sequence nobody writes the other ones.
    shared.states[1][element].v[row] = 0.f;
    shared.memory[element].v[row] = before(1);
  }
  if (threadIdx.x < RECURRENT_ROWS) {
    unsigned length = threadIdx.x < rows ? d.all_steps : 0;
    if (d.has_lengths && threadIdx.x < rows) {
      const int given = places.at<const int>(d.lengths)[first_row + threadIdx.x];
      const bool fits = given >= 0 && static_cast<unsigned>(given) <= d.all_steps;
      if (!fits) context.fail(given);
      length = fits ? static_cast<unsigned>(given) : 0;
    }
    shared.lengths[threadIdx.x] = length;
  }

  for (unsigned turn = 0; turn < d.steps; turn++) {
    context.ask(turn % 2);
    context.sync();
    if (context.answer(turn % 2)) return false;
    const unsigned step = d.reverse ? d.steps - 1 - turn : turn;
    const States *const state = shared.states[turn % 2];
    States *const next = shared.states[(turn + 1) % 2];
    const auto input = [&](unsigned column, unsigned row, unsigned gate) {
      return sums[(1ull * step * d.batch + first_row + row) * d.sums_row_stride + gate * hidden + column];
    };
    // Whether the sequence has this step, and what becomes of the state: `made`, or what it was.
    const auto takes = [&](unsigned row) { return d.first + step < shared.lengths[row]; };
    const auto keep = [&](unsigned column, unsigned row, bool taken, float made) {
      next[column].v[row] = taken ? made : state[column].v[row];
      if (d.has_y) {
        y[step * d.y_step_stride + 1ull * (first_row + row) * hidden + column] = taken ? made : 0.f;
      }
    };
    if (d.cell == CELL_RNN) {
      multiply_states<0, 1>(d, weights, state, shared.parts, context,
                            [&](unsigned column, unsigned row, const float (&own)[1]) {
                              if (row >= rows) return;
                              const bool taken = takes(row);
                              keep(column, row, taken,
                                   taken ? through_gate(d, 0, input(column, row, 0) + own[0]) : 0.f);
                            });
    } else if (d.cell == CELL_GRU_LINEAR) {
      multiply_states<0, 3>(d, weights, state, shared.parts, context,
                            [&](unsigned column, unsigned row, const float (&own)[3]) {
                              if (row >= rows) return;
                              const bool taken = takes(row);
                              float made = 0.f;
                              if (taken) {
                                const float update = through_gate(d, 0, input(column, row, 0) + own[0]);
                                const float reset = through_gate(d, 0, input(column, row, 1) + own[1]);
                                const float bias = d.has_reset_bias ? reset_bias[column] : 0.f;
                                const float inner = reset * (own[2] + bias);
                                const float candidate = through_gate(d, 1, input(column, row, 2) + inner);
                                made = (1.f - update) * candidate + update * state[column].v[row];
                              }
                              keep(column, row, taken, made);
                            });
    } else if (d.cell == CELL_GRU) {
      // The update gate waits in the next state's place, for the thread that put it there.
      multiply_states<0, 2>(d, weights, state, shared.parts, context,
                            [&](unsigned column, unsigned row, const float (&own)[2]) {
                              if (row >= rows || !takes(row)) return;
                              next[column].v[row] = through_gate(d, 0, input(column, row, 0) + own[0]);
                              const float reset = through_gate(d, 0, input(column, row, 1) + own[1]);
                              shared.memory[column].v[row] = reset * state[column].v[row];
                            });
      context.sync();
      multiply_states<2, 1>(d, weights, shared.memory, shared.parts, context,
                            [&](unsigned column, unsigned row, const float (&own)[1]) {
                              if (row >= rows) return;
                              const bool taken = takes(row);
                              float made = 0.f;
                              if (taken) {
                                const float update = next[column].v[row];
                                const float candidate = through_gate(d, 1, input(column, row, 2) + own[0]);
                                made = (1.f - update) * candidate + update * state[column].v[row];
                              }
                              keep(column, row, taken, made);
                            });
    } else {
      const bool is_coupled = d.cell == CELL_LSTM_COUPLED;
      multiply_states<0, 4>(
          d, weights, state, shared.parts, context, [&](unsigned column, unsigned row, const float (&own)[4]) {
            if (row >= rows) return;
            const bool taken = takes(row);
            float made = 0.f;
            if (taken) {
              const float memory = shared.memory[column].v[row];
              const auto seen = [&](unsigned gate, float of) {
                return d.has_peepholes ? peepholes[gate * hidden + column] * of : 0.f;
              };
              const float in = through_gate(d, 0, input(column, row, 0) + own[0] + seen(0, memory));
              const float forget =
                  is_coupled ? 1.f - in : through_gate(d, 0, input(column, row, 2) + own[2] + seen(2, memory));
              const float candidate = through_gate(d, 1, input(column, row, 3) + own[3]);
              const float after = forget * memory + in * candidate;
              shared.memory[column].v[row] = after;
              const float out = through_gate(d, 0, input(column, row, 1) + own[1] + seen(1, after));
              made = out * gate_function(d.functions[2], after);
            }
            keep(column, row, taken, made);
          });
    }
  }
  context.sync();
  const States *const last[2] = {shared.states[d.steps % 2], shared.memory};
  for (unsigned at = threadIdx.x; at < hidden * rows; at += THREADS) {
    const unsigned row = at / hidden, element = at % hidden;
    for (unsigned which = 0; which < 2; which++) {
      if (!d.has_after[which]) continue;
      places.at<float>(d.after[which])[1ull * (first_row + row) * hidden + element] = last[which][element].v[row];
    }
  }
  return true;
}

}  // namespace reef
