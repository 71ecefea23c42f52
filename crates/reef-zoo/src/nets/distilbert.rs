//! DistilBERT (Sanh et al. 2019), `distilbert-base-uncased` without a task head, in two forms with the same
//! weights.
//!
//! Static: folded shapes, `LayerNormalization`, a mask that is added. Dynamic: the idiom of torch's exporter,
//! where views compute their shapes, masks are expanded and chosen with `Where`, and layer norm is spelt out.

use crate::graph::{Graph, float, int, ints};
use crate::moments::on_grid;
use crate::variant::{Dim, Shapes, TensorSpec, Values, Variant};
use crate::weights::{Fill, Role};
use crate::{Model, ZooError};

const LAYERS: usize = 6;
const EPSILON: f32 = 1e-12;

pub(super) fn build(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let config = variant.pick(
        Config { width: 768, heads: 12, hidden: 3072, vocabulary: 30_522, positions: 512 },
        Config { width: 36, heads: 4, hidden: 144, vocabulary: 512, positions: 64 },
    );
    let length = length(variant, &config)?;
    let row = vec![variant.batch_dim(), length];
    let ids = Values::Below(config.vocabulary as u64);
    let ids = graph.input(TensorSpec::integers("input_ids", row.clone(), ids));
    let mask = graph.input(TensorSpec::integers("attention_mask", row.clone(), Values::Mask));

    let mut net = Net { graph, config, length };
    let mut x = net.embeddings(&ids);
    let mask = net.mask(&mask);
    for index in 0..LAYERS {
        x = net.layer(&format!("transformer.layer.{index}"), &x, &mask);
    }
    let width = net.config.width;
    graph.output(&x, TensorSpec::floats("last_hidden_state", [row, vec![Dim::Fixed(width)]].concat()));
    Ok(())
}

struct Config {
    width: usize,
    heads: usize,
    hidden: usize,
    vocabulary: usize,
    positions: usize,
}

fn length(variant: &Variant, config: &Config) -> Result<Dim, ZooError> {
    let tokens = variant.sequence.unwrap_or(variant.pick(128, 16));
    match variant.shapes {
        Shapes::Dynamic => Ok(Dim::Symbol("sequence")),
        Shapes::Static { .. } if (1..=config.positions).contains(&tokens) => Ok(Dim::Fixed(tokens)),
        Shapes::Static { .. } => {
            let why = format!("sequences of {tokens} tokens: it takes 1 to {}", config.positions);
            Err(ZooError::Variant { model: Model::Distilbert, why })
        }
    }
}

struct Net<'a> {
    graph: &'a mut Graph,
    config: Config,
    length: Dim,
}

/// A mask in the form that the scores want it.
enum Mask {
    /// f32 `[N, 1, 1, S]`, 0 or the least float: added.
    Additive(String),
    /// i64 `[N, S]` as it came: made boolean, viewed and expanded in each layer.
    Raw(String),
}

impl Net<'_> {
    fn embeddings(&mut self, ids: &str) -> String {
        let path = "embeddings";
        let (vocabulary, positions, width) =
            (self.config.vocabulary, self.config.positions, self.config.width);
        let words = self.table("embeddings.word_embeddings.weight", vocabulary, width, 0.05);
        let places = self.table("embeddings.position_embeddings.weight", positions, width, 0.03);
        let numbers = self.position_numbers(path, ids);
        let word = self.op("Gather", "embeddings.word_embeddings", &[&words, ids]);
        let place = self.op("Gather", "embeddings.position_embeddings", &[&places, &numbers]);
        let sum = self.op("Add", path, &[&word, &place]);
        self.layer_norm("embeddings.LayerNorm", &sum)
    }

    fn table(&mut self, name: &str, rows: usize, width: usize, std: f32) -> String {
        self.graph.weight(name.to_string(), &[rows, width], Fill::Bell { mean: 0.0, std }, Role::Parameter)
    }

    /// i64 `[1, S]`: 0, 1, 2, …; a slice of a saved range where the length is symbolic.
    fn position_numbers(&mut self, path: &str, ids: &str) -> String {
        let name = "embeddings.position_ids".to_string();
        let count = match self.length {
            Dim::Fixed(tokens) => tokens,
            Dim::Symbol(_) => self.config.positions,
        };
        let range = Fill::I64((0..count as i64).collect());
        let range = self.graph.weight(name, &[1, count], range, Role::Buffer);
        if let Dim::Fixed(_) = self.length {
            return range;
        }
        let end = self.extent(path, ids, 1);
        let end = self.unsqueeze(path, &end, &[0]);
        let [start, axes, steps] = [0, 1, 1].map(|value| self.graph.ints(path, &[value]));
        self.op("Slice", path, &[&range, &start, &end, &axes, &steps])
    }

    fn mask(&mut self, mask: &str) -> Mask {
        if let Shapes::Dynamic = self.graph.shapes {
            return Mask::Raw(mask.to_string());
        }
        let path = "mask";
        let wide = self.unsqueeze(path, mask, &[1, 2]);
        let wide = self.graph.node("Cast", path, &[&wide], vec![int("to", 1)]);
        let one = self.graph.float(path, 1.0);
        let hidden = self.op("Sub", path, &[&one, &wide]);
        let least = self.graph.float(path, f32::MIN);
        Mask::Additive(self.op("Mul", path, &[&hidden, &least]))
    }

    fn layer(&mut self, path: &str, x: &str, mask: &Mask) -> String {
        let attended = self.attention(&format!("{path}.attention"), x, mask);
        let sum = self.op("Add", path, &[&attended, x]);
        let x = self.layer_norm(&format!("{path}.sa_layer_norm"), &sum);
        let (width, hidden) = (self.config.width, self.config.hidden);
        let y = self.linear(&format!("{path}.ffn.lin1"), &x, (width, hidden), 1.0);
        let y = self.gelu(&format!("{path}.ffn.activation"), &y);
        let y = self.linear(&format!("{path}.ffn.lin2"), &y, (hidden, width), 1.2);
        let sum = self.op("Add", path, &[&y, &x]);
        self.layer_norm(&format!("{path}.output_layer_norm"), &sum)
    }

    fn attention(&mut self, path: &str, x: &str, mask: &Mask) -> String {
        let Config { width, heads, .. } = self.config;
        let square = (width, width);
        let q = self.linear(&format!("{path}.q_lin"), x, square, 1.4);
        let k = self.linear(&format!("{path}.k_lin"), x, square, 1.4);
        let v = self.linear(&format!("{path}.v_lin"), x, square, 1.0);
        let q = self.split_heads(path, x, &q, &[0, 2, 1, 3]);
        let k = self.split_heads(path, x, &k, &[0, 2, 3, 1]);
        let v = self.split_heads(path, x, &v, &[0, 2, 1, 3]);
        let root = self.graph.float(path, ((width / heads) as f32).sqrt());
        let q = self.op("Div", path, &[&q, &root]);
        let scores = self.op("MatMul", path, &[&q, &k]);
        let scores = match mask {
            Mask::Additive(mask) => self.op("Add", path, &[&scores, mask]),
            Mask::Raw(mask) => self.masked_fill(path, x, &scores, mask),
        };
        let shares = self.graph.node("Softmax", path, &[&scores], vec![int("axis", -1)]);
        let context = self.op("MatMul", path, &[&shares, &v]);
        let context = self.merge_heads(path, x, &context);
        self.linear(&format!("{path}.out_lin"), &context, square, 1.0)
    }

    /// `[N, S, D]` to `[N, S, heads, D / heads]`, then its axes in `order`.
    fn split_heads(&mut self, path: &str, x: &str, y: &str, order: &[usize]) -> String {
        let Config { width, heads, .. } = self.config;
        let y = self.view(path, x, y, &[heads as i64, (width / heads) as i64]);
        self.graph.node("Transpose", path, &[&y], vec![ints("perm", order)])
    }

    /// `[N, heads, S, D / heads]` to `[N, S, D]`.
    fn merge_heads(&mut self, path: &str, x: &str, y: &str) -> String {
        let y = self.graph.node("Transpose", path, &[y], vec![ints("perm", &[0, 2, 1, 3])]);
        self.view(path, x, &y, &[self.config.width as i64])
    }

    /// Reshapes `y` to `[N, S, rest…]`, where `x` has N and S.
    fn view(&mut self, path: &str, x: &str, y: &str, rest: &[i64]) -> String {
        let shape = match (self.graph.shapes, self.length) {
            (Shapes::Static { batch }, Dim::Fixed(tokens)) => {
                let dims = [&[batch as i64, tokens as i64], rest].concat();
                self.graph.ints(path, &dims)
            }
            _ => {
                let batch = self.extent(path, x, 0);
                let batch = self.unsqueeze(path, &batch, &[0]);
                let rest: Vec<String> =
                    [&[-1], rest].concat().iter().map(|dim| self.graph.ints(path, &[*dim])).collect();
                let mut parts = vec![batch.as_str()];
                parts.extend(rest.iter().map(String::as_str));
                self.graph.node("Concat", path, &parts, vec![int("axis", 0)])
            }
        };
        self.op("Reshape", path, &[y, &shape])
    }

    /// `scores.masked_fill((mask == 0).view(N, 1, 1, S).expand(N, heads, S, S), least)`.
    fn masked_fill(&mut self, path: &str, x: &str, scores: &str, mask: &str) -> String {
        let [batch, tokens] = [0, 1].map(|axis| self.extent(path, x, axis));
        let [batch, tokens] = [batch, tokens].map(|extent| self.unsqueeze(path, &extent, &[0]));
        let one = self.graph.ints(path, &[1]);
        let heads = self.graph.ints(path, &[self.config.heads as i64]);
        let axis = || vec![int("axis", 0)];
        let narrow = self.graph.node("Concat", path, &[&batch, &one, &one, &tokens], axis());
        let wide = self.graph.node("Concat", path, &[&batch, &heads, &tokens, &tokens], axis());
        let zero = self.graph.int(path, 0);
        let hidden = self.op("Equal", path, &[mask, &zero]);
        let hidden = self.op("Reshape", path, &[&hidden, &narrow]);
        let wide = self.keep_or_expand(path, &wide);
        let hidden = self.op("Expand", path, &[&hidden, &wide]);
        let least = self.graph.float(path, f32::MIN);
        self.op("Where", path, &[&hidden, &least, scores])
    }

    /// What the exporter writes for `expand`: an extent of -1 means to keep what is there.
    fn keep_or_expand(&mut self, path: &str, wide: &str) -> String {
        let rank = self.op("Shape", path, &[wide]);
        let one = crate::graph::tensor("value", &[1], &Fill::I64(vec![1]));
        let ones = self.graph.node("ConstantOfShape", path, &[&rank], vec![one]);
        let minus = self.graph.int(path, -1);
        let keep = self.op("Mul", path, &[&ones, &minus]);
        let keep = self.op("Equal", path, &[wide, &keep]);
        self.op("Where", path, &[&keep, &ones, wide])
    }

    /// `x W + b` with weights `[inputs, outputs]`, of variance `gain`² for an `x` of variance 1.
    fn linear(&mut self, path: &str, x: &str, dims: (usize, usize), gain: f64) -> String {
        let std = on_grid(gain / (dims.0 as f64).sqrt());
        let fill = Fill::Bell { mean: 0.0, std };
        let weight = self.graph.weight(format!("{path}.weight"), &[dims.0, dims.1], fill, Role::Parameter);
        let fill = Fill::Bell { mean: 0.0, std: 0.1 };
        let bias = self.graph.weight(format!("{path}.bias"), &[dims.1], fill, Role::Parameter);
        let y = self.op("MatMul", path, &[x, &weight]);
        self.op("Add", path, &[&bias, &y])
    }

    /// `x/2 (1 + erf(x / √2))`: opset 17 has no operator for it.
    fn gelu(&mut self, path: &str, x: &str) -> String {
        let root = self.graph.float(path, std::f32::consts::SQRT_2);
        let one = self.graph.float(path, 1.0);
        let half = self.graph.float(path, 0.5);
        let y = self.op("Div", path, &[x, &root]);
        let y = self.op("Erf", path, &[&y]);
        let y = self.op("Add", path, &[&y, &one]);
        let y = self.op("Mul", path, &[x, &y]);
        self.op("Mul", path, &[&y, &half])
    }

    fn layer_norm(&mut self, path: &str, x: &str) -> String {
        let dims = [self.config.width];
        let scale = Fill::Uniform { low: 0.8, high: 1.2 };
        let shift = Fill::Bell { mean: 0.0, std: 0.1 };
        let scale = self.graph.weight(format!("{path}.weight"), &dims, scale, Role::Parameter);
        let shift = self.graph.weight(format!("{path}.bias"), &dims, shift, Role::Parameter);
        match self.graph.shapes {
            Shapes::Static { .. } => {
                let attributes = vec![int("axis", -1), float("epsilon", EPSILON)];
                self.graph.node("LayerNormalization", path, &[x, &scale, &shift], attributes)
            }
            Shapes::Dynamic => self.spelt_layer_norm(path, x, &scale, &shift),
        }
    }

    fn spelt_layer_norm(&mut self, path: &str, x: &str, scale: &str, shift: &str) -> String {
        let last = || vec![crate::graph::signed_ints("axes", &[-1]), int("keepdims", 1)];
        let mean = self.graph.node("ReduceMean", path, &[x], last());
        let centred = self.op("Sub", path, &[x, &mean]);
        let two = self.graph.float(path, 2.0);
        let squares = self.op("Pow", path, &[&centred, &two]);
        let variance = self.graph.node("ReduceMean", path, &[&squares], last());
        let epsilon = self.graph.float(path, EPSILON);
        let variance = self.op("Add", path, &[&variance, &epsilon]);
        let deviation = self.op("Sqrt", path, &[&variance]);
        let y = self.op("Div", path, &[&centred, &deviation]);
        let y = self.op("Mul", path, &[&y, scale]);
        self.op("Add", path, &[&y, shift])
    }

    /// The extent of an axis of `x`, an integer without an axis.
    fn extent(&mut self, path: &str, x: &str, axis: i64) -> String {
        let shape = self.op("Shape", path, &[x]);
        let axis = self.graph.int(path, axis);
        self.graph.node("Gather", path, &[&shape, &axis], vec![int("axis", 0)])
    }

    fn unsqueeze(&mut self, path: &str, x: &str, axes: &[i64]) -> String {
        let axes = self.graph.ints(path, axes);
        self.op("Unsqueeze", path, &[x, &axes])
    }

    /// A node without attributes.
    fn op(&mut self, op: &str, path: &str, inputs: &[&str]) -> String {
        self.graph.node(op, path, inputs, Vec::new())
    }
}
