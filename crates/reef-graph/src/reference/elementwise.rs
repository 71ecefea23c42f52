//! Operators that work element by element.

use crate::{Binary, DType, Shape, Unary};

use super::{Grid, indices};
use crate::scalar::{self, Element, wrap};

pub(super) fn unary(function: Unary, x: &Grid) -> Result<Vec<Element>, String> {
    let apply = |element: &Element| match *element {
        Element::Float(value) => Some(Element::Float(scalar::unary(function, value))),
        Element::Int(value) => scalar::unary_of(function, x.dtype, value).map(Element::Int),
    };
    let result: Option<Vec<Element>> = x.elements.iter().map(apply).collect();
    result.ok_or_else(|| format!("{function:?} of {}", x.dtype))
}

pub(super) fn binary(function: Binary, a: &Grid, b: &Grid, shape: &Shape) -> Result<Vec<Element>, String> {
    indices(shape)
        .map(|index| match (a.broadcast_at(&index), b.broadcast_at(&index)) {
            (Element::Int(x), Element::Int(y)) => {
                let made = scalar::binary_of(function, a.dtype, x, y).map(Element::Int);
                made.ok_or_else(|| format!("{x} is divided by 0"))
            }
            _ if function.is_bitwise() => Err(format!("{function:?} of {} and {}", a.dtype, b.dtype)),
            (x, y) => Ok(Element::Float(scalar::binary(function, x.float(), y.float()))),
        })
        .collect()
}

pub(super) fn select(grids: &[Grid], shape: &Shape) -> Vec<Element> {
    let pick = |index: Vec<usize>| {
        let side = if grids[0].broadcast_at(&index).int() != 0 { 1 } else { 2 };
        grids[side].broadcast_at(&index)
    };
    indices(shape).map(pick).collect()
}

pub(super) fn scale_shift(grids: &[Grid]) -> Vec<Element> {
    let by_channel = |index: Vec<usize>| {
        let channel = &index[1..2];
        let (x, scale, shift) = (grids[0].at(&index), grids[1].at(channel), grids[2].at(channel));
        Element::Float(x.float() * scale.float() + shift.float())
    };
    indices(&grids[0].dims).map(by_channel).collect()
}

pub(super) fn cast(x: &Grid, to: DType) -> Vec<Element> {
    let convert = |element: &Element| match (to, to.is_float()) {
        (_, true) => match *element {
            Element::Int(value) if x.dtype == DType::U64 => Element::Float(value as u64 as f64),
            element => Element::Float(element.float()),
        },
        (DType::Bool, _) => Element::Int(i64::from(element.float() != 0.0)),
        (DType::U64, _) if x.dtype.is_float() => Element::Int(scalar::u64_of(element.float())),
        _ => Element::Int(wrap(element.int(), to)),
    };
    x.elements.iter().map(convert).collect()
}
