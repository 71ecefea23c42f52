//! Elements by type (`contents`) into the bytes of a tensor.

use bytes::{BufMut, Bytes, BytesMut};
use reef_engine::DType;

use crate::grpc::pb::InferTensorContents;

/// The lists of the message, with their names.
fn lens(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

/// Whether there are any elements.
pub(crate) fn is_empty(contents: &InferTensorContents) -> bool {
    lens(contents).iter().all(|(_, len)| *len == 0)
}

/// The list that elements of `dtype` are in; half precision has none.
fn list(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::Bool => Some("bool_contents"),
        DType::I8 | DType::I16 | DType::I32 => Some("int_contents"),
        DType::I64 => Some("int64_contents"),
        DType::U8 | DType::U16 | DType::U32 => Some("uint_contents"),
        DType::U64 => Some("uint64_contents"),
        DType::F32 => Some("fp32_contents"),
        DType::F64 => Some("fp64_contents"),
        DType::F16 | DType::BF16 => None,
    }
}

/// `count` texts, each after its length.
pub(crate) fn texts(contents: &InferTensorContents, count: usize) -> Result<Bytes, String> {
    check(contents, "BYTES", "bytes_contents", count)?;
    let texts = &contents.bytes_contents;
    let mut bytes = BytesMut::with_capacity(texts.iter().map(|text| 4 + text.len()).sum());
    for text in texts {
        bytes.put_u32_le(u32::try_from(text.len()).map_err(|_| "a text of more than 4 GiB")?);
        bytes.put_slice(text);
    }
    Ok(bytes.freeze())
}

/// Whether there are `count` elements in the list that those of a datatype are in, and no others.
fn check(contents: &InferTensorContents, datatype: &str, list: &str, count: usize) -> Result<(), String> {
    let other = lens(contents).into_iter().find(|&(name, len)| len > 0 && name != list);
    if let Some((other, _)) = other {
        return Err(format!("elements of {datatype} are in {list}, the request has {other}"));
    }
    let len = lens(contents).iter().map(|(_, len)| len).sum::<usize>();
    match len == count {
        true => Ok(()),
        false => Err(format!("{len} elements in {list}, the shape needs {count}")),
    }
}

/// The little-endian bytes of `count` elements of `dtype`.
pub(crate) fn bytes(contents: &InferTensorContents, dtype: DType, count: usize) -> Result<Bytes, String> {
    let datatype = dtype.protocol_name();
    let Some(list) = list(dtype) else {
        return Err(format!("{datatype} has no typed contents, send it in raw_input_contents"));
    };
    check(contents, datatype, list, count)?;
    let mut bytes = BytesMut::with_capacity(count * dtype.bytes());
    let signed = &contents.int_contents;
    let unsigned = &contents.uint_contents;
    match dtype {
        DType::Bool => contents.bool_contents.iter().for_each(|&value| bytes.put_u8(value.into())),
        DType::I8 => narrow(signed, datatype, |value| bytes.put_i8(value))?,
        DType::I16 => narrow(signed, datatype, |value| bytes.put_i16_le(value))?,
        DType::I32 => signed.iter().for_each(|&value| bytes.put_i32_le(value)),
        DType::I64 => contents.int64_contents.iter().for_each(|&value| bytes.put_i64_le(value)),
        DType::U8 => narrow(unsigned, datatype, |value| bytes.put_u8(value))?,
        DType::U16 => narrow(unsigned, datatype, |value| bytes.put_u16_le(value))?,
        DType::U32 => unsigned.iter().for_each(|&value| bytes.put_u32_le(value)),
        DType::U64 => contents.uint64_contents.iter().for_each(|&value| bytes.put_u64_le(value)),
        DType::F32 => contents.fp32_contents.iter().for_each(|&value| bytes.put_f32_le(value)),
        DType::F64 => contents.fp64_contents.iter().for_each(|&value| bytes.put_f64_le(value)),
        DType::F16 | DType::BF16 => unreachable!("these have no list"),
    }
    Ok(bytes.freeze())
}

/// Elements that must fit a narrower type than theirs.
fn narrow<W: Copy + std::fmt::Display, N: TryFrom<W>>(
    elements: &[W],
    datatype: &str,
    mut put: impl FnMut(N),
) -> Result<(), String> {
    for &element in elements {
        put(N::try_from(element).map_err(|_| format!("{element} does not fit {datatype}"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_list() {
        let contents = InferTensorContents {
            bool_contents: vec![true, false],
            int_contents: vec![-1, 7],
            int64_contents: vec![-1, 7],
            uint_contents: vec![255, 7],
            uint64_contents: vec![u64::MAX, 7],
            fp32_contents: vec![-0.0, f32::NAN],
            fp64_contents: vec![1.5, f64::INFINITY],
            bytes_contents: vec![],
        };
        let table: [(DType, Vec<u8>); 11] = [
            (DType::Bool, vec![1, 0]),
            (DType::I8, vec![255, 7]),
            (DType::I16, vec![255, 255, 7, 0]),
            (DType::I32, [(-1i32).to_le_bytes(), 7i32.to_le_bytes()].concat()),
            (DType::I64, [(-1i64).to_le_bytes(), 7i64.to_le_bytes()].concat()),
            (DType::U8, vec![255, 7]),
            (DType::U16, vec![255, 0, 7, 0]),
            (DType::U32, [255u32.to_le_bytes(), 7u32.to_le_bytes()].concat()),
            (DType::U64, [u64::MAX.to_le_bytes(), 7u64.to_le_bytes()].concat()),
            (DType::F32, [(-0f32).to_le_bytes(), f32::NAN.to_le_bytes()].concat()),
            (DType::F64, [1.5f64.to_le_bytes(), f64::INFINITY.to_le_bytes()].concat()),
        ];
        for (dtype, expected) in table {
            let list = list(dtype).unwrap();
            let mut one = InferTensorContents::default();
            match list {
                "bool_contents" => one.bool_contents = contents.bool_contents.clone(),
                "int_contents" => one.int_contents = contents.int_contents.clone(),
                "int64_contents" => one.int64_contents = contents.int64_contents.clone(),
                "uint_contents" => one.uint_contents = contents.uint_contents.clone(),
                "uint64_contents" => one.uint64_contents = contents.uint64_contents.clone(),
                "fp32_contents" => one.fp32_contents = contents.fp32_contents.clone(),
                _ => one.fp64_contents = contents.fp64_contents.clone(),
            }
            assert_eq!(bytes(&one, dtype, 2).unwrap(), expected, "{dtype}");
            assert!(bytes(&one, dtype, 3).unwrap_err().contains("the shape needs 3"));
            one.bytes_contents = vec![Bytes::new()];
            assert!(bytes(&one, dtype, 2).unwrap_err().contains("the request has bytes_contents"));
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let int = |value| InferTensorContents { int_contents: vec![value], ..Default::default() };
        assert_eq!(bytes(&int(128), DType::I8, 1).unwrap_err(), "128 does not fit INT8");
        assert_eq!(bytes(&int(-32769), DType::I16, 1).unwrap_err(), "-32769 does not fit INT16");
        let uint = InferTensorContents { uint_contents: vec![256], ..Default::default() };
        assert_eq!(bytes(&uint, DType::U8, 1).unwrap_err(), "256 does not fit UINT8");
        assert!(bytes(&uint, DType::F16, 1).unwrap_err().contains("FP16 has no typed contents"));
        assert!(bytes(&uint, DType::I8, 1).unwrap_err().contains("are in int_contents"));
        assert!(is_empty(&InferTensorContents::default()) && !is_empty(&uint));
    }
}
