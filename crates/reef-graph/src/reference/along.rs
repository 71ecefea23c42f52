//! Operators along an axis, row by row.

use std::cmp::Ordering;

use super::store;
use crate::along::{Along, rows};
use crate::op::Reduce;
use crate::scalar::{Element, larger, smaller, wrap};
use crate::{DType, Tensor};

/// The outputs of an operator along `axis`.
pub fn along(along: Along, axis: usize, x: &Tensor) -> Result<Vec<Tensor>, String> {
    let outputs = along.outputs(axis, x.dtype(), x.shape())?;
    let [outer, extent, inner] = rows(x.shape(), axis);
    let elements = Element::all(x);
    let mut made: Vec<Vec<Element>> =
        outputs.iter().map(|(_, shape)| vec![Element::Int(0); shape.elements()]).collect();
    for (plane, column) in (0..outer).flat_map(|plane| (0..inner).map(move |column| (plane, column))) {
        let at = |extent: usize, place: usize| (plane * extent + place) * inner + column;
        let row: Vec<Element> = (0..extent).map(|place| elements[at(extent, place)]).collect();
        for (made, results) in made.iter_mut().zip(of_row(along, x.dtype(), &row)) {
            let count = results.len();
            results.into_iter().enumerate().for_each(|(place, result)| made[at(count, place)] = result);
        }
    }
    Ok(made.iter().zip(&outputs).map(|(made, (dtype, shape))| store(made, *dtype, shape)).collect())
}

/// What a row of elements of a type gives, by output; the row has no [flaw](Along::flaw).
pub fn of_row(along: Along, dtype: DType, row: &[Element]) -> Vec<Vec<Element>> {
    let place = |place: usize| Element::Int(place as i64);
    match along {
        Along::ArgExtreme { largest, last } => {
            let mut found = 0;
            for (at, &element) in row.iter().enumerate() {
                let order = compare(dtype, element, row[found]);
                let beyond = order == Some(if largest { Ordering::Greater } else { Ordering::Less });
                if beyond || last && order == Some(Ordering::Equal) {
                    found = at;
                }
            }
            vec![vec![place(found)]]
        }
        Along::TopK { k, largest } => {
            let mut order: Vec<usize> = (0..row.len()).collect();
            // Stable: equal ones stay in their order.
            order.sort_by(|&a, &b| {
                let order = total(dtype, row[a], row[b]);
                if largest { order.reverse() } else { order }
            });
            order.truncate(k);
            vec![order.iter().map(|&at| row[at]).collect(), order.into_iter().map(place).collect()]
        }
        Along::Scan { product, exclusive, reverse } => {
            let whole = !dtype.is_float();
            let (zero, one) = (Element::Int(0), Element::Int(1));
            let mut sum = match (product, whole) {
                (true, true) => one,
                (false, true) => zero,
                (_, false) => Element::Float(if product { 1.0 } else { 0.0 }),
            };
            let mut made = vec![sum; row.len()];
            for turn in 0..row.len() {
                let at = if reverse { row.len() - 1 - turn } else { turn };
                let before = sum;
                sum = joined(product, sum, row[at]);
                made[at] = if exclusive { before } else { sum };
            }
            vec![made]
        }
    }
}

fn joined(product: bool, a: Element, b: Element) -> Element {
    match (a, b) {
        (Element::Int(a), Element::Int(b)) if product => Element::Int(a.wrapping_mul(b)),
        (Element::Int(a), Element::Int(b)) => Element::Int(a.wrapping_add(b)),
        _ if product => Element::Float(a.float() * b.float()),
        _ => Element::Float(a.float() + b.float()),
    }
}

/// How elements of a type compare; not at all with a NaN.
fn compare(dtype: DType, a: Element, b: Element) -> Option<Ordering> {
    match (a, b) {
        (Element::Int(a), Element::Int(b)) if dtype == DType::U64 => Some((a as u64).cmp(&(b as u64))),
        (Element::Int(a), Element::Int(b)) => Some(a.cmp(&b)),
        _ => a.float().partial_cmp(&b.float()),
    }
}

/// The same with NaNs equal and behind all numbers.
fn total(dtype: DType, a: Element, b: Element) -> Ordering {
    compare(dtype, a, b).unwrap_or_else(|| a.float().is_nan().cmp(&b.float().is_nan()))
}

/// A reduction of floats, or of integers: then sums and products wrap, and a mean is that of a sum in 64
/// bits, truncated.
pub fn fold(reduce: Reduce, dtype: DType, row: &[Element]) -> Element {
    if dtype.is_float() {
        return Element::Float(fold_floats(reduce, row));
    }
    let values = row.iter().map(|element| element.int());
    let largest = |a: &i64, b: &i64| match dtype {
        DType::U64 => (*a as u64).cmp(&(*b as u64)),
        _ => a.cmp(b),
    };
    let sum = || row.iter().fold(0i64, |sum, element| sum.wrapping_add(element.int()));
    let value = match reduce {
        Reduce::Sum => sum(),
        Reduce::Mean if dtype == DType::U64 => (sum() as u64 / row.len().max(1) as u64) as i64,
        Reduce::Mean => sum() / row.len().max(1) as i64,
        Reduce::Max => values.max_by(largest).unwrap_or(0),
        Reduce::Min => values.min_by(largest).unwrap_or(0),
        Reduce::Prod => values.fold(1, i64::wrapping_mul),
        Reduce::SumSquare => values.fold(0i64, |sum, value| sum.wrapping_add(value.wrapping_mul(value))),
    };
    Element::Int(wrap(value, dtype))
}

fn fold_floats(reduce: Reduce, row: &[Element]) -> f64 {
    let values = row.iter().map(|element| element.float());
    match reduce {
        Reduce::Sum => values.fold(0.0, |sum, value| sum + value),
        Reduce::Mean => values.fold(0.0, |sum, value| sum + value) / row.len() as f64,
        Reduce::Max => values.fold(f64::NEG_INFINITY, larger),
        Reduce::Min => values.fold(f64::INFINITY, smaller),
        Reduce::Prod => values.fold(1.0, |product, value| product * value),
        Reduce::SumSquare => values.fold(0.0, |sum, value| sum + value * value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(along_what: Along, row: &[f32]) -> Vec<Vec<f64>> {
        let made = along(along_what, 0, &Tensor::f32([row.len()], row)).unwrap();
        made.iter().map(|made| Element::all(made).into_iter().map(Element::float).collect()).collect()
    }

    #[test]
    fn places_and_orders_of_equal_elements_and_nans() {
        let nan = f32::NAN;
        let place = |largest, last, row: &[f32]| one(Along::ArgExtreme { largest, last }, row)[0][0];
        assert_eq!(place(true, false, &[1.0, 3.0, 3.0]), 1.0);
        assert_eq!(place(true, true, &[1.0, 3.0, 3.0]), 2.0);
        assert_eq!(place(false, true, &[0.0, -0.0, 3.0]), 1.0);
        assert_eq!(place(true, true, &[nan, 3.0, nan]), 0.0);
        assert_eq!(place(true, false, &[2.0, nan, 3.0]), 2.0);
        let top = |largest, row: &[f32]| one(Along::TopK { k: 3, largest }, row).remove(1);
        assert_eq!(top(true, &[1.0, 5.0, nan, 5.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(top(false, &[nan, 0.0, -0.0, -1.0]), [3.0, 1.0, 2.0]);
    }

    #[test]
    fn running_sums() {
        let scan = |product, exclusive, reverse| {
            one(Along::Scan { product, exclusive, reverse }, &[2.0, 3.0, 4.0]).remove(0)
        };
        assert_eq!(scan(false, false, false), [2.0, 5.0, 9.0]);
        assert_eq!(scan(false, true, false), [0.0, 2.0, 5.0]);
        assert_eq!(scan(true, true, true), [12.0, 4.0, 1.0]);
        assert_eq!(scan(true, false, true), [24.0, 12.0, 4.0]);
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        let x = Tensor::f32([2, 0], &[]);
        let of = |what, axis| along(what, axis, &x).unwrap_err();
        assert!(of(Along::ArgExtreme { largest: true, last: false }, 1).contains("no elements"));
        assert!(of(Along::TopK { k: 3, largest: true }, 0).contains("more elements"));
        assert!(of(Along::TopK { k: 3, largest: true }, 2).contains("axis 2"));
    }

    #[test]
    fn means_of_integers_are_truncated() {
        let row: Vec<Element> = [-7, 2].map(Element::Int).to_vec();
        assert_eq!(fold(Reduce::Mean, DType::I32, &row), Element::Int(-2));
        assert_eq!(fold(Reduce::Prod, DType::I8, &[Element::Int(100), Element::Int(3)]), Element::Int(44));
    }
}
