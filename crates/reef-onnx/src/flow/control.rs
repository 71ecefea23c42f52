//! Operators with bodies: `If`, `Loop`, `Scan`, `SequenceMap`.
//!
//! A branch that is taken stands in the place of its `If`. A loop whose rounds are counted and few is written
//! out. Any other goes round by round: a round is made of the body, a number for what comes next (*go on*,
//! *grow*, or how many rounds there were) and the loop again, which waits for that number. Results that a
//! loop stacks are kept in a buffer with room for more rounds; a round gives its row, which is written into
//! the buffer when that is handed over. When the room is used up it doubles.

use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_base::limits::{UNROLLED_NODES_MAX, UNROLLED_ROUNDS_MAX};
use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{GraphProto, NodeProto, ValueInfoProto};

use super::DOMAIN;
use super::nodes::{attribute, attribute_of, body, int, number_attribute, own, standard, unsupported};
use super::step::{Evaluation, Stored, Thing};
use crate::consts::whole_numbers;
use crate::decl::Dim;
use crate::error::ImportError;
use crate::{scope, tensors};

/// What a loop's number says while it goes on.
const GO_ON: i64 = -1;
/// The same, when the rows are used up.
const GROW: i64 = -2;
/// Rows of a buffer for stacked results to begin with.
const ROWS: i64 = 16;

/// The parts of a loop that waits for its next round. As inputs of a node: round, rounds, number, carried
/// values, buffers.
struct Round {
    carried: usize,
    stacked: usize,
    /// Rows that the buffers have; 0 while there are none.
    rows: i64,
}

impl Evaluation<'_> {
    /// Does what `node` says if it steers; false if it computes.
    pub(super) fn visit_control(&mut self, node: &NodeProto) -> Result<bool, ImportError> {
        match node.op_type.as_str() {
            "Identity" => self.alias(&node.output[0], &node.input[0]),
            "Constant" => return self.visit_constant(node),
            "If" => self.visit_if(node)?,
            "Loop" => self.visit_loop(node)?,
            "Scan" => self.visit_scan(node)?,
            "SequenceMap" => self.visit_map(node)?,
            "LoopRound" if node.domain == DOMAIN => self.visit_round(node)?,
            "LoopNext" if node.domain == DOMAIN => self.visit_next(node)?,
            "Stack" if node.domain == DOMAIN => self.visit_stack(node)?,
            "Turned" if node.domain == DOMAIN => self.visit_turned(node)?,
            _ => return self.visit_sequence(node),
        }
        Ok(true)
    }

    pub(super) fn alias(&mut self, name: &str, to: &str) {
        self.set(name, Thing::Alias(to.to_owned()));
    }

    fn visit_constant(&mut self, node: &NodeProto) -> Result<bool, ImportError> {
        let Some(tensor) = tensors::constant(node, None) else { return Ok(false) };
        self.set_const(&node.output[0], tensor);
        Ok(true)
    }

    /// Nodes that are visited next, in their order.
    pub(super) fn next(&mut self, nodes: impl DoubleEndedIterator<Item = NodeProto>) {
        for node in nodes.rev() {
            self.queue.push_front(node);
        }
    }

    fn visit_if(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let Some(condition) = self.decided(&node.input[0])? else {
            self.want(node, &node.input[0])?;
            self.leave(node.clone());
            return Ok(());
        };
        let [condition] = condition[..] else {
            return Err(unsupported(node, "its condition is not one value"));
        };
        let branch = body(node, if condition != 0 { "then_branch" } else { "else_branch" })?.clone();
        if branch.output.len() != node.output.len() {
            return Err(unsupported(node, "a branch has another number of results"));
        }
        for (output, result) in node.output.iter().zip(&branch.output) {
            self.alias(output, &result.name);
        }
        self.next(branch.node.into_iter());
        Ok(())
    }

    fn visit_loop(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let graph = body(node, "body")?.clone();
        let input = |index: usize| node.input.get(index).map(String::as_str).filter(|name| !name.is_empty());
        let carried: Vec<String> = node.input.iter().skip(2).cloned().collect();
        let fits = graph.input.len() == carried.len() + 2 && graph.output.len() > carried.len();
        if !fits || node.output.len() > graph.output.len() - 1 {
            return Err(unsupported(node, "its body does not have its inputs and results"));
        }
        let begins = match input(1) {
            None => true,
            Some(name) => match self.decided(name)? {
                Some(value) => value.first().is_some_and(|&value| value != 0),
                None => {
                    self.want(node, name)?;
                    self.leave(node.clone());
                    return Ok(());
                }
            },
        };
        let rounds = match input(0) {
            None => Some(i64::MAX),
            Some(name) => self.decided(name)?.map(|value| value.first().copied().unwrap_or(0)),
        };
        let mut outputs = node.output.clone();
        while outputs.len() < graph.output.len() - 1 {
            let unread = self.fresh("unread");
            outputs.push(unread);
        }
        if !begins || rounds.is_some_and(|rounds| rounds <= 0) {
            return self.no_rounds(node, &graph, &carried, &outputs);
        }
        let short = |&rounds: &i64| {
            rounds <= UNROLLED_ROUNDS_MAX as i64
                && (rounds as usize).saturating_mul(written_out(&graph)) <= UNROLLED_NODES_MAX
        };
        match rounds.filter(short) {
            Some(rounds) if self.always_goes_on(&graph)? => self.unroll(rounds, &graph, carried, &outputs),
            _ => self.first_round(node, &graph, rounds, carried, outputs)?,
        }
        Ok(())
    }

    /// Whether the condition that a body gives is the one that it gets, or always true.
    fn always_goes_on(&self, graph: &GraphProto) -> Result<bool, ImportError> {
        let mut name = self.resolve(&graph.output[0].name);
        loop {
            if graph.input[1].name == name {
                return Ok(true);
            }
            let Some(maker) = graph.node.iter().find(|node| node.output.contains(&name)) else {
                return Ok(match self.thing(&name) {
                    Ok(Thing::Const(tensor)) => whole_numbers(&tensor).is_some_and(|v| v == [1]),
                    _ => false,
                });
            };
            match maker.op_type.as_str() {
                "Identity" => name.clone_from(&maker.input[0]),
                "Constant" => {
                    let value = tensors::constant(maker, None).and_then(|tensor| whole_numbers(&tensor));
                    return Ok(value.is_some_and(|value| value == [1]));
                }
                _ => return Ok(false),
            }
        }
    }

    /// The body for these inputs.
    fn round(&mut self, graph: &GraphProto, inputs: &[String]) -> (Vec<NodeProto>, Vec<String>) {
        scope::instance(graph, inputs, |name| self.fresh(name))
    }

    fn unroll(&mut self, rounds: i64, graph: &GraphProto, mut carried: Vec<String>, outputs: &[String]) {
        let (count, yes) = (carried.len(), self.truth());
        let mut rows: Vec<Vec<String>> = vec![vec![]; outputs.len() - count];
        let mut nodes = vec![];
        for round in 0..rounds {
            let number = self.integers(&[], &[round]);
            let inputs: Vec<String> = [number, yes.clone()].into_iter().chain(carried).collect();
            let (made, mut results) = self.round(graph, &inputs);
            nodes.extend(made);
            let stacked = results.split_off(count + 1);
            rows.iter_mut().zip(stacked).for_each(|(rows, row)| rows.push(row));
            carried = results.split_off(1);
        }
        for (output, value) in outputs.iter().zip(&carried) {
            self.alias(output, value);
        }
        for (rows, output) in rows.into_iter().zip(&outputs[count..]) {
            nodes.push(own("Stack", rows, vec![output.clone()]));
        }
        self.next(nodes.into_iter());
    }

    /// A constant that says yes.
    fn truth(&mut self) -> String {
        let name = self.fresh("true");
        self.set_const(&name, Tensor::from_slice(DType::Bool, Shape::default(), &[1u8]));
        name
    }

    /// A loop that is not entered: carried values stay, stacked ones have no row.
    fn no_rounds(
        &mut self,
        node: &NodeProto,
        graph: &GraphProto,
        carried: &[String],
        outputs: &[String],
    ) -> Result<(), ImportError> {
        for (output, value) in outputs.iter().zip(carried) {
            self.alias(output, value);
        }
        let stacked = &outputs[carried.len()..];
        if !stacked.iter().any(|output| node.output.contains(output)) {
            return Ok(());
        }
        let rows = self.imagined(graph, carried);
        for ((output, row), info) in stacked.iter().zip(rows).zip(&graph.output[carried.len() + 1..]) {
            let Some((dtype, shape)) = row.or_else(|| declared_row(info)) else {
                return Err(unsupported(node, "the type of a loop's results is not known without a round"));
            };
            let shape: Shape = std::iter::once(0).chain(shape.iter().copied()).collect();
            self.set_const(output, Tensor::new(dtype, shape, Arc::new(AlignedBytes::zeroed(0))));
        }
        Ok(())
    }

    /// What the rows of a loop's stacked results would be like, as far as can be told from a round that never
    /// runs: where it fails or waits for data, nothing is known.
    fn imagined(&mut self, graph: &GraphProto, carried: &[String]) -> Vec<Option<(DType, Shape)>> {
        let mut round = self.aside();
        let number = round.integers(&[], &[0]);
        let inputs: Vec<String> =
            [number, round.truth()].into_iter().chain(carried.iter().cloned()).collect();
        let (nodes, results) = round.round(graph, &inputs);
        round.next(nodes.into_iter());
        let done = round.visit_all().is_ok();
        let rows = results[carried.len() + 1..].iter().map(|row| {
            let fact = if done { round.fact(row).ok().flatten() } else { None };
            fact.map(|fact| (fact.dtype, fact.shape))
        });
        rows.collect()
    }

    /// The first round of a loop that goes round by round: it is entered if there is a round at all.
    fn first_round(
        &mut self,
        node: &NodeProto,
        graph: &GraphProto,
        rounds: Option<i64>,
        carried: Vec<String>,
        outputs: Vec<String>,
    ) -> Result<(), ImportError> {
        let round = Round { carried: carried.len(), stacked: outputs.len() - carried.len(), rows: 0 };
        // A value like any other from here on, so that all rounds are the same.
        let first = self.fresh("round");
        let zero = self.integers(&[], &[0]);
        self.emit(standard("Identity", vec![zero.clone()], &first, vec![]), true);
        let (limit, number) = match rounds {
            Some(rounds) => (self.integers(&[], &[rounds]), self.integers(&[], &[GO_ON])),
            None => {
                let limit = self.reshaped(&node.input[0], &[]);
                let enters = self.fresh("enters");
                self.emit(standard("Less", vec![zero.clone(), limit.clone()], &enters, vec![]), true);
                let go_on = self.integers(&[], &[GO_ON]);
                (limit, self.choice("goes on", &enters, &go_on, &zero))
            }
        };
        let mut inputs = vec![first, limit, number];
        inputs.extend(carried);
        inputs.extend(vec![String::new(); round.stacked]);
        let next = round.node("LoopRound", &node.name, inputs, outputs, graph.clone());
        self.next([next].into_iter());
        Ok(())
    }

    /// `condition ? a : b`, computed.
    fn choice(&mut self, stem: &str, condition: &str, a: &str, b: &str) -> String {
        let name = self.fresh(stem);
        let inputs = [condition, a, b].map(str::to_owned).to_vec();
        self.emit(standard("Where", inputs, &name, vec![]), true);
        name
    }

    fn reshaped(&mut self, name: &str, dims: &[i64]) -> String {
        let (shape, made) = (self.integers(&[dims.len()], dims), self.fresh("reshaped"));
        self.emit(standard("Reshape", vec![name.to_owned(), shape], &made, vec![]), true);
        made
    }

    fn visit_round(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let graph = body(node, "body")?.clone();
        let round = Round::of(node);
        let Some(number) = self.decided(&node.input[2])? else {
            self.want(node, &node.input[2])?;
            self.leave(node.clone());
            return Ok(());
        };
        let (carried, buffers) = node.input[3..].split_at(round.carried);
        for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
            // Whether a loop goes on is computed by its round, and known behind the hand-over.
            if matches!(self.thing(buffer)?, Thing::Stored(_)) {
                return Err(unsupported(node, "its results are read before they are there"));
            }
        }
        match number[0] {
            GO_ON | GROW => {}
            0 if round.rows == 0 => return self.no_rounds(node, &graph, carried, &node.output),
            rounds => {
                for (output, value) in node.output.iter().zip(carried) {
                    self.alias(output, value);
                }
                for (output, buffer) in node.output[round.carried..].iter().zip(buffers) {
                    self.rows(buffer, rounds, output);
                }
                return Ok(());
            }
        }
        let (mut buffers, mut rows) = (buffers.to_vec(), round.rows);
        if number[0] == GROW {
            rows *= 2;
            for buffer in &mut buffers {
                let grown = self.fresh("rows");
                let axis = attribute_of("axis", AttributeType::Int, |attribute| attribute.i = 0);
                self.emit(standard("Concat", vec![buffer.clone(), buffer.clone()], &grown, vec![axis]), true);
                *buffer = grown;
            }
        }
        let yes = self.truth();
        let inputs: Vec<String> =
            [node.input[0].clone(), yes].into_iter().chain(carried.iter().cloned()).collect();
        let (mut nodes, results) = self.round(&graph, &inputs);
        let mut inputs = vec![node.input[0].clone(), node.input[1].clone()];
        inputs.extend(results);
        inputs.extend(buffers);
        let next = Round { rows, ..round };
        nodes.push(next.node("LoopNext", &node.name, inputs, node.output.clone(), graph));
        self.next(nodes.into_iter());
        Ok(())
    }

    /// Behind a body: its rows are stored, and the number says what comes.
    fn visit_next(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let graph = body(node, "body")?.clone();
        let mut round = Round::of(node);
        let (first, limit) = (node.input[0].clone(), node.input[1].clone());
        let (condition, results) = node.input[2..].split_first().expect("a body gives a condition");
        let (carried, results) = results.split_at(round.carried);
        let (rows, buffers) = results.split_at(round.stacked);
        let (one, now) = (self.integers(&[], &[1]), self.fresh("round"));
        self.emit(standard("Add", vec![first.clone(), one], &now, vec![]), true);
        let limited = self.decided(&limit)?.map(|limit| limit[0]);
        let mut goes = self.reshaped(condition, &[]);
        if limited != Some(i64::MAX) {
            let (below, both) = (self.fresh("below"), self.fresh("goes"));
            self.emit(standard("Less", vec![now.clone(), limit.clone()], &below, vec![]), true);
            self.emit(standard("And", vec![goes, below], &both, vec![]), true);
            goes = both;
        }
        let mut stored = vec![];
        for (row, buffer) in rows.iter().zip(buffers) {
            let room = if round.rows == 0 { limited.unwrap_or(ROWS).min(ROWS) } else { round.rows };
            stored.push(self.store(node, row, buffer, &first, room)?);
        }
        if round.stacked > 0 && round.rows == 0 {
            round.rows = limited.unwrap_or(ROWS).min(ROWS);
        }
        let mut on = self.integers(&[], &[GO_ON]);
        let mut ends = self.integers(&[], &[0]);
        if round.stacked > 0 {
            ends.clone_from(&now);
            if limited.is_none_or(|limit| limit > round.rows) {
                let (room, full) = (self.integers(&[], &[round.rows]), self.fresh("full"));
                self.emit(standard("Equal", vec![now.clone(), room], &full, vec![]), true);
                let grow = self.integers(&[], &[GROW]);
                on = self.choice("room", &full, &grow, &on);
            }
        }
        let number = self.choice("goes on", &goes, &on, &ends);
        let mut inputs = vec![now, limit, number];
        inputs.extend(carried.iter().cloned());
        inputs.extend(stored);
        self.next([round.node("LoopRound", &node.name, inputs, node.output.clone(), graph)].into_iter());
        Ok(())
    }

    /// `buffer` with `row` at `index`; without one, a new one of `room` rows.
    fn store(
        &mut self,
        node: &NodeProto,
        row: &str,
        buffer: &str,
        index: &str,
        room: i64,
    ) -> Result<String, ImportError> {
        let Some(shape) = self.fact(row)?.map(|fact| fact.shape) else {
            return Err(unsupported(node, "the shape of a loop's results is not known"));
        };
        let made = self.fresh("rows");
        if buffer.is_empty() {
            let row = self.with_axis(row, 0);
            let dims: Vec<i64> =
                std::iter::once(room).chain(shape.iter().map(|&extent| extent as i64)).collect();
            let dims = self.integers(&[dims.len()], &dims);
            self.emit(standard("Expand", vec![row, dims], &made, vec![]), true);
            return Ok(made);
        }
        let rows = self.fact(buffer)?.map(|fact| fact.shape);
        if rows.is_none_or(|rows| rows.rank() == 0 || rows[1..] != shape[..]) {
            return Err(unsupported(node, "its rounds give results of different shapes"));
        }
        let (buffer, row, at) = (buffer.to_owned(), self.resolve(row), index.to_owned());
        self.set(&made, Thing::Stored(Stored { buffer, row, at }));
        Ok(made)
    }

    /// `name` with an axis of extent 1 at `axis`.
    pub(super) fn with_axis(&mut self, name: &str, axis: i64) -> String {
        let made = self.fresh("row");
        let (mut inputs, mut attributes) = (vec![name.to_owned()], vec![]);
        if self.flow.opset >= 13 {
            inputs.push(self.integers(&[1], &[axis]));
        } else {
            attributes
                .push(attribute_of("axes", AttributeType::Ints, |attribute| attribute.ints = vec![axis]));
        }
        self.emit(standard("Unsqueeze", inputs, &made, attributes), true);
        made
    }

    /// The first `count` rows of a buffer.
    fn rows(&mut self, buffer: &str, count: i64, output: &str) {
        self.slice_axis(buffer, 0, [0, count], output);
    }

    /// Elements from `begin` to before `end` along an axis.
    pub(super) fn slice_axis(&mut self, name: &str, axis: i64, [begin, end]: [i64; 2], output: &str) {
        if self.flow.opset >= 10 {
            let numbers = [begin, end, axis].map(|number| self.integers(&[1], &[number]));
            let inputs = std::iter::once(name.to_owned()).chain(numbers).collect();
            return self.emit(standard("Slice", inputs, output, vec![]), true);
        }
        let ints = |name: &str, value: i64| {
            attribute_of(name, AttributeType::Ints, |attribute| attribute.ints = vec![value])
        };
        let attributes = vec![ints("starts", begin), ints("ends", end), ints("axes", axis)];
        self.emit(standard("Slice", vec![name.to_owned()], output, attributes), true);
    }

    fn visit_stack(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let rows: Vec<String> = node.input.iter().map(|row| self.with_axis(row, 0)).collect();
        let axis = attribute_of("axis", AttributeType::Int, |attribute| attribute.i = 0);
        self.emit(standard("Concat", rows, &node.output[0], vec![axis]), true);
        Ok(())
    }

    /// As a loop: what is scanned is picked by the number of the round.
    fn visit_scan(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let mut graph = body(node, "body")?.clone();
        let scanned = int(node, "num_scan_inputs").unwrap_or(0) as usize;
        let states = node.input.len().checked_sub(scanned);
        let Some(states) = states.filter(|states| graph.output.len() >= *states && scanned > 0) else {
            return Err(unsupported(node, "its body does not have its inputs and results"));
        };
        if graph.input.len() != node.input.len() || graph.output.len() < node.output.len() {
            return Err(unsupported(node, "its body does not have its inputs and results"));
        }
        let list = |name: &str, index: usize| {
            attribute(node, name).and_then(|attribute| attribute.ints.get(index)).copied().unwrap_or(0)
        };
        let mut rounds = None;
        let (number, goes) = (self.fresh("round"), self.fresh("goes"));
        let mut picks = vec![];
        for index in 0..scanned {
            let name = &node.input[states + index];
            let Some(shape) = self.fact(name)?.map(|fact| fact.shape) else {
                return Err(unsupported(node, "the shape of what it scans is not known"));
            };
            let axis = list("scan_input_axes", index);
            let axis = if axis < 0 { axis + shape.rank() as i64 } else { axis };
            let Some(&extent) = usize::try_from(axis).ok().and_then(|axis| shape.get(axis)) else {
                return Err(unsupported(node, format!("its input has no axis {axis}")));
            };
            if *rounds.get_or_insert(extent) != extent {
                return Err(unsupported(node, "what it scans has different lengths"));
            }
            let at = match list("scan_input_directions", index) {
                0 => number.clone(),
                _ => {
                    let (last, at) = (self.integers(&[], &[extent as i64 - 1]), self.fresh("at"));
                    picks.push(standard("Sub", vec![last, number.clone()], &at, vec![]));
                    at
                }
            };
            let axis = attribute_of("axis", AttributeType::Int, |attribute| attribute.i = axis);
            let formal = graph.input[states + index].name.clone();
            picks.push(standard("Gather", vec![name.clone(), at], &formal, vec![axis]));
        }
        let outputs = node.output.clone();
        let rounds = rounds.unwrap_or(0) as i64;
        let named = |name: &String| ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() };
        graph.input.truncate(states);
        graph.input.splice(0..0, [named(&number), named(&goes)]);
        graph.output.insert(0, named(&goes));
        graph.node.splice(0..0, picks);
        self.scan_as_loop(node, graph, states, rounds, outputs);
        Ok(())
    }

    /// The loop that a scan is, and what its stacked results go through afterwards.
    fn scan_as_loop(
        &mut self,
        node: &NodeProto,
        graph: GraphProto,
        states: usize,
        rounds: i64,
        mut outputs: Vec<String>,
    ) {
        let list = |name: &str, index: usize| {
            attribute(node, name).and_then(|attribute| attribute.ints.get(index)).copied().unwrap_or(0)
        };
        let rounds = self.integers(&[], &[rounds]);
        let mut nodes = vec![];
        for (index, output) in outputs.iter_mut().skip(states).enumerate() {
            let (axis, direction) = (list("scan_output_axes", index), list("scan_output_directions", index));
            if (axis, direction) != (0, 0) && !output.is_empty() {
                let stacked = self.fresh(output);
                let mut turned = own("Turned", vec![stacked.clone()], vec![output.clone()]);
                turned.attribute =
                    vec![number_attribute("axis", axis), number_attribute("reversed", direction)];
                nodes.push(turned);
                *output = stacked;
            }
        }
        let mut inputs = vec![rounds, String::new()];
        inputs.extend(node.input[..states].iter().cloned());
        let mut all = standard("Loop", inputs, "", vec![]);
        all.name.clone_from(&node.name);
        all.output = outputs;
        all.attribute =
            vec![attribute_of("body", AttributeType::Graph, |attribute| attribute.g = Some(graph))];
        nodes.insert(0, all);
        self.next(nodes.into_iter());
    }

    /// Stacked results along another axis, or from the last to the first.
    fn visit_turned(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let Some(shape) = self.fact(&node.input[0])?.map(|fact| fact.shape) else {
            return Err(unsupported(node, "the shape of a scan's results is not known"));
        };
        let (rank, axis) = (shape.rank() as i64, int(node, "axis").unwrap_or(0));
        let axis = if axis < 0 { axis + rank } else { axis };
        if !(0..rank).contains(&axis) {
            return Err(unsupported(node, format!("its results have no axis {axis}")));
        }
        let mut name = node.input[0].clone();
        if int(node, "reversed") == Some(1) {
            let reversed = self.fresh("reversed");
            let backwards: Vec<i64> = (0..shape[0] as i64).rev().collect();
            let order = self.integers(&[backwards.len()], &backwards);
            let axis = attribute_of("axis", AttributeType::Int, |attribute| attribute.i = 0);
            self.emit(standard("Gather", vec![name, order], &reversed, vec![axis]), true);
            name = reversed;
        }
        let mut perm: Vec<i64> = (1..rank).collect();
        perm.insert(axis as usize, 0);
        let perm = attribute_of("perm", AttributeType::Ints, |attribute| attribute.ints = perm);
        self.emit(standard("Transpose", vec![name], &node.output[0], vec![perm]), true);
        Ok(())
    }

    /// The body for every element of the sequences.
    fn visit_map(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let graph = body(node, "body")?.clone();
        let mut lists = vec![];
        for name in &node.input {
            lists.push(match self.thing(name)? {
                Thing::List(elements) => Some(elements),
                _ => None,
            });
        }
        let Some(Some(first)) = lists.first() else {
            return Err(unsupported(node, "its first input is not a sequence"));
        };
        let length = first.len();
        if lists.iter().flatten().any(|list| list.len() != length) {
            return Err(unsupported(node, "its sequences have different lengths"));
        }
        let mut made: Vec<Vec<String>> = vec![vec![]; node.output.len()];
        let mut nodes = vec![];
        for index in 0..length {
            let actual = lists.iter().zip(&node.input);
            let actual: Vec<String> = actual
                .map(|(list, name)| list.as_ref().map_or_else(|| name.clone(), |list| list[index].clone()))
                .collect();
            let (body, results) = self.round(&graph, &actual);
            nodes.extend(body);
            made.iter_mut().zip(results).for_each(|(list, result)| list.push(result));
        }
        for (output, elements) in node.output.iter().zip(made) {
            nodes.push(own("SequenceConstruct", elements, vec![output.clone()]));
        }
        self.next(nodes.into_iter());
        Ok(())
    }
}

impl Round {
    fn of(node: &NodeProto) -> Round {
        let number = |name: &str| int(node, name).unwrap_or(0);
        let (carried, stacked) = (number("carried") as usize, number("stacked") as usize);
        Round { carried, stacked, rows: number("rows") }
    }

    fn node(
        &self,
        operator: &str,
        name: &str,
        input: Vec<String>,
        output: Vec<String>,
        graph: GraphProto,
    ) -> NodeProto {
        let mut node = own(operator, input, output);
        node.name = name.to_owned();
        node.attribute = vec![
            attribute_of("body", AttributeType::Graph, |attribute| attribute.g = Some(graph)),
            number_attribute("carried", self.carried as i64),
            number_attribute("stacked", self.stacked as i64),
            number_attribute("rows", self.rows),
        ];
        node
    }
}

/// Nodes that a body may become when the loops in it are written out, too.
fn written_out(graph: &GraphProto) -> usize {
    let of = |node: &NodeProto| {
        let inner: usize = scope::bodies(node).map(written_out).fold(0, usize::saturating_add);
        let rounds = if node.op_type == "If" { 1 } else { UNROLLED_ROUNDS_MAX };
        inner.saturating_mul(rounds).saturating_add(1)
    };
    graph.node.iter().map(of).fold(0, usize::saturating_add)
}

/// What a body declares of a row; an extent that it leaves open is 0, as in ONNX Runtime.
fn declared_row(info: &ValueInfoProto) -> Option<(DType, Shape)> {
    let decl = crate::proto::decl(info).ok()?;
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => *extent,
        Dim::Symbol(_) => 0,
    };
    Some((decl.dtype, decl.dims.iter().map(extent).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_in_a_loop_count_with_their_rounds() {
        let graph = |node| GraphProto { node, ..GraphProto::default() };
        let with = |operator: &str, body: GraphProto| {
            let body = attribute_of("body", AttributeType::Graph, |attribute| attribute.g = Some(body));
            standard(operator, vec![], "y", vec![body])
        };
        let leaf = || graph(vec![standard("Neg", vec![], "y", vec![]), standard("Abs", vec![], "z", vec![])]);
        assert_eq!(written_out(&leaf()), 2);
        assert_eq!(written_out(&graph(vec![with("If", leaf())])), 3);
        let once = graph(vec![with("Loop", leaf())]);
        assert_eq!(written_out(&once), 1 + 2 * UNROLLED_ROUNDS_MAX);
        let deep = (0..20).fold(once, |inner, _| graph(vec![with("Loop", inner)]));
        assert_eq!(written_out(&deep), usize::MAX, "it does not wrap");
    }
}
