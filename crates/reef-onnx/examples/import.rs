//! Prints the normalised graph of an ONNX file: `import MODEL [DIMS...]`, dims like `1,3,224,224` per input.

use std::path::Path;

use reef_graph::Shape;
use reef_onnx::{Dim, OnnxModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: import MODEL [DIMS...]")?;
    let started = std::time::Instant::now();
    let model = OnnxModel::read(Path::new(&path))?;
    let read = started.elapsed();
    let mut shapes = vec![];
    for input in model.inputs() {
        let fixed = |dim: &Dim| if let Dim::Fixed(extent) = dim { *extent } else { 1 };
        let dims: Vec<usize> = match arguments.next() {
            Some(text) => text.split(',').map(str::parse).collect::<Result<_, _>>()?,
            None => input.dims.iter().map(fixed).collect(),
        };
        shapes.push((input.name.as_str(), Shape::new(&dims)));
    }
    for round in 0..2 {
        let started = std::time::Instant::now();
        let specialised = model.specialise(&shapes)?;
        if round == 0 {
            println!("{}", specialised.graph);
        }
        println!("read {read:?}, specialised {:?}", started.elapsed());
        println!("{} nodes, {} host kernels", specialised.graph.nodes.len(), specialised.host_kernels.len());
    }
    Ok(())
}
