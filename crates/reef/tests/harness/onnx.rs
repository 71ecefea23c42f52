//! Models that no exporter would write, encoded by hand.

/// A model of one node `op` from `x`, f32 `[4]`, to `y`; `out_type` is ONNX's number of an element type.
pub fn one_node(op: &str, out_type: u8) -> Vec<u8> {
    nodes(&[(op, "y")], out_type)
}

/// A model of nodes `(op, output)`, each from `x`, f32 `[4]`.
pub fn nodes(nodes: &[(&str, &str)], out_type: u8) -> Vec<u8> {
    let tensor = |name: &str, elem_type: u8, dim: Vec<u8>| {
        let tensor = [vec![0x08, elem_type], message(2, &message(1, &dim))].concat();
        [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat()
    };
    let mut graph = Vec::new();
    for (index, (op, output)) in nodes.iter().enumerate() {
        let name = if index == 0 { "the_node".to_string() } else { format!("node {index}") };
        let node = [message(1, b"x"), message(2, output.as_bytes()), message(3, name.as_bytes())].concat();
        graph.extend(message(1, &[node, message(4, op.as_bytes())].concat()));
    }
    graph.extend(message(2, b"graph"));
    graph.extend(message(11, &tensor("x", 1, vec![0x08, 4])));
    for (_, output) in nodes {
        graph.extend(message(12, &tensor(output, out_type, message(2, b"n"))));
    }
    // IR version 8, operator set 17.
    [vec![0x08, 8], message(7, &graph), message(8, &[0x10, 17])].concat()
}

/// A length-delimited field of a protocol buffer.
fn message(field: u8, content: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(content.len()), content.to_vec()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = vec![];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A model of `count` convolutions with `width` channels on each side, of single elements of an image of
/// 2 × 2, whose results are scaled, each with weights of its own, as raw data.
pub fn convolutions(width: usize, count: usize) -> Vec<u8> {
    let number = |field: u8, value: usize| [vec![field << 3], varint(value)].concat();
    let floats = |name: &str, dims: &[usize], seed: usize| {
        let mut tensor: Vec<u8> = dims.iter().flat_map(|&extent| number(1, extent)).collect();
        let elements: usize = dims.iter().product();
        let value = |at: usize| ((at * 31 + seed * 17) % 1009) as f32 / 1e6;
        let raw: Vec<u8> = (0..elements).flat_map(|at| value(at).to_le_bytes()).collect();
        tensor.extend([number(2, 1), message(8, name.as_bytes()), message(9, &raw)].concat());
        message(5, &tensor)
    };
    let value = |name: &str| {
        let dims: Vec<u8> =
            [1, width, 2, 2].iter().flat_map(|&extent| message(1, &number(1, extent))).collect();
        let tensor = [number(1, 1), message(2, &dims)].concat();
        [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat()
    };
    let node = |operator: &str, inputs: [&str; 2], output: &str| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| message(1, input.as_bytes())).collect();
        message(1, &[inputs, message(2, output.as_bytes()), message(4, operator.as_bytes())].concat())
    };
    let mut graph = message(2, b"graph");
    for at in 0..count {
        let [x, conv, y] = [format!("x{at}"), format!("conv{at}"), format!("x{}", at + 1)];
        let [weights, scale] = [format!("weights{at}"), format!("scale{at}")];
        graph.extend(node("Conv", [&x, &weights], &conv));
        graph.extend(node("Mul", [&conv, &scale], &y));
        graph.extend(floats(&weights, &[width, width, 1, 1], at));
        graph.extend(floats(&scale, &[width, 1, 1], at));
    }
    graph.extend(message(11, &value("x0")));
    graph.extend(message(12, &value(&format!("x{count}"))));
    [vec![0x08, 8], message(7, &graph), message(8, &[0x10, 17])].concat()
}

/// A number as a field of a protocol buffer.
fn number(field: u8, value: usize) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|input| message(1, input.as_bytes())).collect();
    message(1, &[inputs, message(2, output.as_bytes()), message(4, operator.as_bytes())].concat())
}

/// An input (11) or output (12) of f32 elements; an extent of `None` is open.
fn value(field: u8, name: &str, extents: &[Option<usize>]) -> Vec<u8> {
    let dims = extents.iter().flat_map(|extent| {
        let dim = extent.map_or_else(|| message(2, b"n"), |extent| number(1, extent));
        message(1, &dim)
    });
    let tensor = [number(1, 1), message(2, &dims.collect::<Vec<u8>>())].concat();
    message(field, &[message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat())
}

fn constant(name: &str, element_type: usize, dims: &[usize], raw: &[u8]) -> Vec<u8> {
    let mut tensor: Vec<u8> = dims.iter().flat_map(|&extent| number(1, extent)).collect();
    tensor.extend([number(2, element_type), message(8, name.as_bytes()), message(9, raw)].concat());
    message(5, &tensor)
}

fn whole(graph: Vec<Vec<u8>>) -> Vec<u8> {
    let graph = [graph.concat(), message(2, b"graph")].concat();
    [number(1, 8), message(7, &graph), message(8, &[0x10, 17])].concat()
}

/// The softmax of a row of so many elements, for which a compute unit needs as many as scratch.
pub fn softmax(extent: usize) -> Vec<u8> {
    let row = [Some(1), Some(extent)];
    whole(vec![node("Softmax", &["x"], "y"), value(11, "x", &row), value(12, "y", &row)])
}

/// A model from `x`, `[rows, 4]`, to `y`, whose plans take longer to make than any test does: products
/// of constants.
pub fn slow_to_compile(rows: Option<usize>) -> Vec<u8> {
    const SIZE: usize = 256;
    const COUNT: usize = 20_000;
    // Each row is the next one's: no power of it is simpler than it is.
    let one = |at: usize| if at % SIZE == (at / SIZE + 1) % SIZE { 1f32 } else { 0.0 };
    let turn: Vec<u8> = (0..SIZE * SIZE).flat_map(|at| one(at).to_le_bytes()).collect();
    let mut graph = vec![constant("a0", 1, &[SIZE, SIZE], &turn)];
    for at in 0..COUNT {
        graph.push(node("MatMul", &[&format!("a{at}"), "a0"], &format!("a{}", at + 1)));
    }
    graph.push(node("ReduceMax", &[&format!("a{COUNT}")], "largest"));
    graph.push(node("Add", &["x", "largest"], "y"));
    let io = [rows, Some(4)];
    whole([graph, vec![value(11, "x", &io), value(12, "y", &io)]].concat())
}
