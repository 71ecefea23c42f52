//! What indices name: elements that are taken from there, or put there.

use super::{Grid, flatten, indices, unflatten};
use crate::indexed::{Picks, Putting};
use crate::scalar::Element;
use crate::{AllowedIndices, DType, axis_index};

pub(super) fn take(picks: Picks, data: &Grid, named: &Grid) -> Result<Vec<Element>, String> {
    let shape = picks.moved(&data.dims, &named.dims)?;
    indices(&shape).map(|at| Ok(data.at(&place(picks, &data.dims, named, &at)?))).collect()
}

pub(super) fn put(
    picks: Picks,
    putting: Putting,
    dtype: DType,
    [data, named, updates]: [&Grid; 3],
) -> Result<Vec<Element>, String> {
    let shape = picks.moved(&data.dims, &named.dims)?;
    if updates.dims != shape.to_vec() {
        return Err(format!("updates are not of shape {shape}"));
    }
    let mut made = data.elements.clone();
    for (at, &element) in updates.elements.iter().enumerate() {
        let to = place(picks, &data.dims, named, &unflatten(&shape, at))?;
        let to = &mut made[flatten(&data.dims, &to)];
        *to = join(putting, dtype, *to, element);
    }
    Ok(made)
}

/// `there` after `put` was put on it; both are of this type, and so is the result.
pub fn join(putting: Putting, dtype: DType, there: Element, put: Element) -> Element {
    let takes = |beyond: bool, nan: bool| if beyond || nan { put } else { there };
    let unsigned = dtype == DType::U64;
    let made = match (putting, there, put) {
        (Putting::Replace, ..) => put,
        (Putting::Add, Element::Int(a), Element::Int(b)) => Element::Int(a.wrapping_add(b)),
        (Putting::Multiply, Element::Int(a), Element::Int(b)) => Element::Int(a.wrapping_mul(b)),
        (Putting::Smaller, Element::Int(a), Element::Int(b)) => {
            takes(if unsigned { (b as u64) < a as u64 } else { b < a }, false)
        }
        (Putting::Larger, Element::Int(a), Element::Int(b)) => {
            takes(if unsigned { b as u64 > a as u64 } else { b > a }, false)
        }
        (Putting::Add, a, b) => Element::Float(a.float() + b.float()),
        (Putting::Multiply, a, b) => Element::Float(a.float() * b.float()),
        (Putting::Smaller, a, b) => takes(b.float() < a.float(), b.float().is_nan()),
        (Putting::Larger, a, b) => takes(b.float() > a.float(), b.float().is_nan()),
    };
    let mut bytes = [0; 8];
    let bytes = &mut bytes[..dtype.bytes()];
    made.write(dtype, bytes);
    Element::read(dtype, bytes)
}

/// The index in data of what lies at `at` among what is taken or put.
fn place(picks: Picks, dims: &[usize], named: &Grid, at: &[usize]) -> Result<Vec<usize>, String> {
    let inside = |axis: usize, index: i64| {
        axis_index(index, dims[axis]).ok_or_else(|| format!("index {index}, {}", AllowedIndices(dims[axis])))
    };
    match picks {
        Picks::Elements { axis } => {
            let mut place = at.to_vec();
            place[axis] = inside(axis, named.at(at).int())?;
            Ok(place)
        }
        Picks::Slices { batch } => {
            let (rows, axes) = (named.dims.len() - 1, named.dims[named.dims.len() - 1]);
            let mut place = at[..batch].to_vec();
            for axis in 0..axes {
                let row: Vec<usize> = at[..rows].iter().copied().chain([axis]).collect();
                place.push(inside(batch + axis, named.at(&row).int())?);
            }
            place.extend(&at[rows..]);
            Ok(place)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_joined_in_its_type() {
        let whole = |putting, dtype, a, b| join(putting, dtype, Element::Int(a), Element::Int(b));
        assert_eq!(whole(Putting::Add, DType::U8, 250, 10), Element::Int(4));
        assert_eq!(whole(Putting::Multiply, DType::I8, 100, 3), Element::Int(44));
        assert_eq!(whole(Putting::Larger, DType::U64, 1, -1), Element::Int(-1));
        assert_eq!(whole(Putting::Smaller, DType::I64, 1, -1), Element::Int(-1));
        let floats =
            |putting, dtype, a, b| join(putting, dtype, Element::Float(a), Element::Float(b)).float();
        assert_eq!(floats(Putting::Add, DType::F16, 2048.0, 1.0), 2048.0);
        assert_eq!(floats(Putting::Larger, DType::F32, 1.0, 2.0), 2.0);
        assert!(floats(Putting::Smaller, DType::F32, f64::NAN, 2.0).is_nan());
        assert!(floats(Putting::Larger, DType::F32, 2.0, f64::NAN).is_nan());
        assert!(Putting::Add.flaw(DType::Bool).is_some() && Putting::Larger.flaw(DType::Bool).is_none());
    }
}
