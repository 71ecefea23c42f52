//! What indices name: natively in every form, an index outside is the fault of who gave it.

use std::sync::Arc;

use reef_base::TaskKey;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, Outcome};
use reef_plan::{FaultKind, HostFault};
use tract_onnx::pb::tensor_proto::DataType;

use super::host::run;
use super::network::{Attr, Network, specialise};
use crate::Specialised;

/// The first output for these inputs, or what is wrong with them.
fn outcome(specialised: &Specialised, inputs: &[&[u8]]) -> Result<Vec<f32>, HostFault> {
    assert!(specialised.host_kernels.is_empty(), "{}", specialised.graph);
    let options = CpuOptions { cus: Some(1), nice: 0, pin: false, ..CpuOptions::default() };
    let device = CpuDevice::start(options).expect("the device starts");
    let (cutter, options) = (device.cutter(None), reef_compile::CompileOptions::default());
    let plan = reef_compile::compile(&specialised.graph, &[], &Arc::default(), cutter.as_ref(), &options);
    let loaded = device.load(Arc::new(plan.expect("it compiles"))).expect("the device takes it");
    let mut io = device.alloc_io(loaded).expect("there is memory");
    for (buffer, bytes) in io.inputs.iter_mut().zip(inputs) {
        buffer.as_mut_slice().copy_from_slice(bytes);
    }
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
    loop {
        if let Some(done) = device.try_complete() {
            return match done.outcome {
                Outcome::Failed(fault) => Err(fault),
                _ => Ok(bytemuck::cast_slice(done.io.outputs[0].as_slice()).to_vec()),
            };
        }
        std::thread::yield_now();
    }
}

#[test]
fn values_that_an_operator_does_not_take_are_the_inputs_fault() {
    let data: Vec<f32> = (0..12).map(|at| at as f32).collect();
    let run = |operator: &str, dims: &[&str], axis: Option<i64>, indices: &[i64]| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["4", "3"]);
        network.input("i", DataType::Int64, dims);
        let attributes: Vec<_> = axis.map(|axis| ("axis", Attr::Int(axis))).into_iter().collect();
        let y = network.node(operator, &["x", "i"], &attributes);
        network.output(&y, DataType::Float, &["A", "B"]);
        let shape: Vec<usize> = dims.iter().map(|dim| dim.parse().expect("a number")).collect();
        let specialised = specialise(&network.model(), &[&[4, 3], &shape]);
        let made = outcome(&specialised, &[bytemuck::cast_slice(&data), bytemuck::cast_slice(indices)]);
        made.map_err(|fault| (fault.kind, fault.reason))
    };
    assert_eq!(run("GatherND", &["1", "1"], None, &[-1]), Ok(vec![9.0, 10.0, 11.0]));
    assert_eq!(run("GatherElements", &["1", "3"], Some(0), &[0, -1, 1]), Ok(vec![0.0, 10.0, 5.0]));
    let bad = |reason: &str| Err((FaultKind::Input, reason.to_owned()));
    let error = bad("GatherND: indices[1] is 4, allowed are -4 to 3");
    assert_eq!(run("GatherND", &["2", "1"], None, &[0, 4]), error);
    let error = bad("GatherND: indices[1] is -4, allowed are -3 to 2");
    assert_eq!(run("GatherND", &["1", "2"], None, &[0, -4]), error);
    let error = bad("GatherElements: indices[2] is 3, allowed are -3 to 2");
    assert_eq!(run("GatherElements", &["4", "3"], Some(1), &[0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]), error);
}

/// Fewer indices than elements along the other axes: the others stay.
#[test]
fn updates_of_a_corner() {
    let put = |operator: &str, reduction: Option<&str>, axis: i64| {
        let mut network = Network::default();
        network.opset(if reduction.is_some() { 18 } else { 11 });
        network.input("x", DataType::Float, &["3", "3"]);
        let indices = network.integers(&[2, 2], &[0, -1, 0, 1]);
        let updates = network.constant(&[2, 2], &[10.0, 20.0, 30.0, 40.0]);
        let mut attributes = vec![("axis", Attr::Int(axis))];
        attributes.extend(reduction.map(|reduction| ("reduction", Attr::Text(reduction))));
        let y = network.node(operator, &["x", &indices, &updates], &attributes);
        network.output(&y, DataType::Float, &["3", "3"]);
        let specialised = specialise(&network.model(), &[&[3, 3]]);
        assert!(specialised.host_kernels.is_empty());
        run(&specialised, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    };
    let by_row = [10.0, 2.0, 20.0, 30.0, 40.0, 6.0, 7.0, 8.0, 9.0];
    assert_eq!(put("Scatter", None, 1), by_row);
    assert_eq!(put("ScatterElements", None, 1), by_row);
    // Both of the first column go to its first element.
    assert_eq!(put("ScatterElements", None, 0), [30.0, 2.0, 3.0, 4.0, 40.0, 6.0, 7.0, 20.0, 9.0]);
    assert_eq!(put("ScatterElements", Some("add"), 0), [41.0, 2.0, 3.0, 4.0, 45.0, 6.0, 7.0, 28.0, 9.0]);
    assert_eq!(put("ScatterElements", Some("mul"), 0)[0], 300.0);
}

/// Places of a pool bring its elements back.
#[test]
fn a_pool_and_its_way_back() {
    let mut network = Network::default();
    network.opset(12);
    network.input("x", DataType::Float, &["1", "1", "4", "4"]);
    let window = [("kernel_shape", Attr::Ints(&[2, 2])), ("strides", Attr::Ints(&[2, 2]))];
    let pooled = network.nodes("MaxPool", &["x"], &window, 2);
    let wanted = network.integers(&[4], &[1, 1, 5, 4]);
    let y = network.node("MaxUnpool", &[&pooled[0], &pooled[1], &wanted], &window);
    network.output(&y, DataType::Float, &["1", "1", "5", "4"]);
    let specialised = specialise(&network.model(), &[&[1, 1, 4, 4]]);
    assert!(specialised.host_kernels.is_empty());
    let x: Vec<f32> = (0..16).map(|at| (at * 7 % 16) as f32).collect();
    let mut meant = vec![0.0; 20];
    for corner in [0, 2, 8, 10] {
        let window = [corner, corner + 1, corner + 4, corner + 5];
        let largest = window.into_iter().max_by(|&a, &b| x[a].total_cmp(&x[b])).expect("there are four");
        meant[largest] = x[largest];
    }
    assert_eq!(run(&specialised, &x), meant);
}
