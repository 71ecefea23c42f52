//! Tensors as NumPy files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use npyz::{NpyHeader, Order, WriterBuilder};
use reef_base::{AlignedBytes, limits};
use reef_graph::{DType, Shape};

/// A dense row-major tensor read from a file.
#[derive(Clone, Debug)]
pub struct NpyTensor {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
    /// Little-endian elements; texts each after its length.
    pub data: AlignedBytes,
    /// Whether elements are texts; the element type says nothing then.
    pub texts: bool,
}

/// Reads a `.npy` file of a type that reef carries, in C order and little endian.
pub fn read(path: &Path) -> Result<NpyTensor> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    parse(BufReader::new(file))
        .with_context(|| format!("{} is not a tensor that can be read", path.display()))
}

fn parse(mut reader: impl Read) -> Result<NpyTensor> {
    let header = NpyHeader::from_reader(&mut reader)?;
    let descr = header.dtype().descr();
    let name = descr.trim_matches('\'');
    let texts = TextType::of(name);
    let Some(dtype) = dtype_of(name).or(texts.as_ref().map(|_| DType::I64)) else {
        bail!("element type {name} is not supported")
    };
    if header.order() != Order::C {
        bail!("the array is in Fortran order; save it with numpy.ascontiguousarray");
    }
    let extents: Option<Vec<usize>> = header.shape().iter().map(|&n| usize::try_from(n).ok()).collect();
    let each = texts.as_ref().map_or(dtype.bytes(), |texts| texts.bytes);
    let sized = extents.and_then(|extents| {
        tensor_bytes(&extents, dtype)?;
        let elements: usize = extents.iter().product();
        Some((elements.checked_mul(each)?, extents))
    });
    let Some((bytes, extents)) = sized else {
        bail!("shape {:?} is larger than a tensor may be", header.shape());
    };
    // Memory grows with what the file holds, not with what its header says.
    let mut data = Vec::new();
    reader.by_ref().take(bytes as u64).read_to_end(&mut data)?;
    if data.len() < bytes {
        bail!("the file is shorter than its header says");
    }
    if reader.read(&mut [0])? != 0 {
        bail!("the file is longer than its header says");
    }
    let shape = Shape::from(extents);
    let data = match &texts {
        Some(texts) => texts.prefixed(&data, shape.elements())?,
        None => data,
    };
    Ok(NpyTensor { dtype, shape, data: AlignedBytes::copy_from(&data), texts: texts.is_some() })
}

/// How an array holds texts: each in so many bytes, filled up with zeros.
struct TextType {
    /// Whether they are code points of four bytes; else they are bytes.
    wide: bool,
    bytes: usize,
}

impl TextType {
    fn of(descr: &str) -> Option<TextType> {
        let (wide, length) = match (descr.strip_prefix("<U"), descr.strip_prefix("|S")) {
            (Some(length), _) => (true, length),
            (_, length) => (false, length?),
        };
        let length: usize = length.parse().ok()?;
        Some(TextType { wide, bytes: length.checked_mul(if wide { 4 } else { 1 })? })
    }

    /// The texts of an array, each after its length.
    fn prefixed(&self, data: &[u8], count: usize) -> Result<Vec<u8>> {
        let mut all = vec![];
        for index in 0..count {
            let held = &data[index * self.bytes..][..self.bytes];
            let text = match self.wide {
                true => {
                    let (points, _) = held.as_chunks::<4>();
                    let points = points.iter().map(|&point| char::from_u32(u32::from_le_bytes(point)));
                    let text: Option<String> = points.collect();
                    text.context("a text has a code that is no character")?.trim_end_matches('\0').into()
                }
                false => held[..held.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)].to_vec(),
            };
            let text: Vec<u8> = text;
            all.extend(u32::try_from(text.len())?.to_le_bytes());
            all.extend(text);
        }
        Ok(all)
    }
}

/// Writes texts, as NumPy holds them: code points, as many for each as the longest has.
pub fn write_texts(path: &Path, shape: &Shape, texts: &[&[u8]]) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let texts: Vec<Vec<char>> = texts
        .iter()
        .map(|text| Ok(std::str::from_utf8(text)?.chars().collect()))
        .collect::<Result<_>>()
        .with_context(cannot)?;
    let length = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let dims: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let header = format!("{{'descr': '<U{length}', 'fortran_order': False, 'shape': ({dims}), }}\n");
    let mut out = b"\x93NUMPY\x02\x00".to_vec();
    out.extend(u32::try_from(header.len())?.to_le_bytes());
    out.extend(header.as_bytes());
    for text in &texts {
        let padded = text.iter().map(|&point| u32::from(point)).chain(std::iter::repeat(0));
        out.extend(padded.take(length).flat_map(u32::to_le_bytes));
    }
    std::fs::write(path, out).with_context(cannot)
}

/// Bytes of a tensor; `None` where it has more elements than one may have.
pub fn tensor_bytes(extents: &[usize], dtype: DType) -> Option<usize> {
    let elements = extents.iter().try_fold(1usize, |elements, &extent| elements.checked_mul(extent))?;
    (elements <= limits::TENSOR_ELEMENTS_MAX).then(|| elements * dtype.bytes())
}

fn dtype_of(descr: &str) -> Option<DType> {
    Some(match descr {
        "<f4" => DType::F32,
        "<f2" => DType::F16,
        "<f8" => DType::F64,
        "<i8" => DType::I64,
        "<i4" => DType::I32,
        "<i2" => DType::I16,
        "|i1" => DType::I8,
        "<u8" => DType::U64,
        "<u4" => DType::U32,
        "<u2" => DType::U16,
        "|u1" => DType::U8,
        "|b1" => DType::Bool,
        // What ml_dtypes calls bfloat16, as NumPy writes it.
        "<V2" => DType::BF16,
        _ => return None,
    })
}

/// Writes a dense row-major tensor; bf16, which NumPy does not have, as its bits in u16.
pub fn write(path: &Path, dtype: DType, shape: &Shape, data: &AlignedBytes) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = BufWriter::new(file);
    let dims: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
    match dtype {
        DType::F32 => elements(&mut out, &dims, data.typed::<f32>()),
        DType::F64 => elements(&mut out, &dims, data.typed::<f64>()),
        DType::F16 => elements(&mut out, &dims, data.typed::<half::f16>()),
        DType::BF16 | DType::U16 => elements(&mut out, &dims, data.typed::<u16>()),
        DType::I64 => elements(&mut out, &dims, data.typed::<i64>()),
        DType::I32 => elements(&mut out, &dims, data.typed::<i32>()),
        DType::I16 => elements(&mut out, &dims, data.typed::<i16>()),
        DType::I8 => elements(&mut out, &dims, data.typed::<i8>()),
        DType::U64 => elements(&mut out, &dims, data.typed::<u64>()),
        DType::U32 => elements(&mut out, &dims, data.typed::<u32>()),
        DType::U8 => elements(&mut out, &dims, data.typed::<u8>()),
        DType::Bool => {
            let values: Vec<bool> = data.as_slice().iter().map(|&byte| byte != 0).collect();
            elements(&mut out, &dims, &values)
        }
    }
    .and_then(|()| out.flush())
    .with_context(|| format!("cannot write {}", path.display()))
}

fn elements<T: npyz::AutoSerialize + Copy>(
    out: impl Write,
    dims: &[u64],
    values: &[T],
) -> std::io::Result<()> {
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(dims).writer(out).begin_nd()?;
    writer.extend(values.iter().copied())?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brain_floats_are_what_numpy_writes_of_them() {
        let dictionary = "{'descr': '<V2', 'fortran_order': False, 'shape': (2,), }\n";
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((dictionary.len() as u16).to_le_bytes());
        file.extend(dictionary.as_bytes());
        file.extend([0x80, 0x3F, 0x00, 0x40]);
        let tensor = parse(&file[..]).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape[..]), (DType::BF16, &[2][..]));
        assert_eq!(tensor.data.as_slice(), [0x80, 0x3F, 0x00, 0x40]);
    }

    #[test]
    fn tensors_round_trip() {
        let dir = std::env::temp_dir().join(format!("reef-npy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (dtype, bytes) in
            [(DType::F32, 24), (DType::I64, 48), (DType::Bool, 6), (DType::F16, 12), (DType::U8, 6)]
        {
            let mut data = AlignedBytes::zeroed(bytes);
            data.as_mut_slice()[0] = 1;
            let path = dir.join(format!("{dtype}.npy"));
            write(&path, dtype, &Shape::from([2, 3]), &data).unwrap();
            let back = read(&path).unwrap();
            assert_eq!((back.dtype, &back.shape[..]), (dtype, &[2, 3][..]));
            assert_eq!(back.data.as_slice(), data.as_slice());
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn texts_round_trip() {
        let dir = std::env::temp_dir().join(format!("reef-npy-texts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("texts.npy");
        write_texts(&path, &Shape::from([3, 1]), &["é€".as_bytes(), b"", b"abc"]).unwrap();
        let back = read(&path).unwrap();
        assert_eq!((back.texts, &back.shape[..]), (true, &[3, 1][..]));
        assert_eq!(back.data.as_slice(), b"\x05\0\0\0\xc3\xa9\xe2\x82\xac\0\0\0\0\x03\0\0\0abc");
        assert!(write_texts(&path, &Shape::from([1]), &[&[0xff][..]]).is_err(), "no UTF-8");
        std::fs::remove_dir_all(&dir).unwrap();
        let array = |descr: &str, data: &[u8]| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,)}}\n");
            let length = (header.len() as u16).to_le_bytes();
            parse(&[b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()[..])
        };
        assert_eq!(array("|S2", b"a\0bc").unwrap().data.as_slice(), b"\x01\0\0\0a\x02\0\0\0bc");
        assert!(array("|S2", b"a\0b").is_err(), "too short");
        assert!(array("<U1", &[0xff; 8]).is_err(), "no characters");
        assert!(array("<U99999999999999999999", b"").is_err(), "no length");
        assert!(array("<U9223372036854775807", b"").is_err(), "too long");
    }

    #[test]
    fn broken_files_are_named() {
        let missing = read(Path::new("/nonexistent/x.npy")).unwrap_err();
        assert!(format!("{missing:#}").contains("/nonexistent/x.npy"));
        assert!(parse(&b"not an array"[..]).is_err());
        let mut bytes = Vec::new();
        elements(&mut bytes, &[2], &[1.0f32, 2.0]).unwrap();
        assert!(parse(&bytes[..bytes.len() - 1]).is_err());
        bytes.push(0);
        assert!(parse(&bytes[..]).is_err());
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
        let shapes = [
            ("(2147483648,)", "shorter"),
            ("(2147483649,)", "larger"),
            ("(8589934592, 8589934592)", "larger"),
            ("(9223372036854775807,)", "larger"),
        ];
        for (shape, expected) in shapes {
            let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n");
            let file =
                [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
            let error = format!("{:#}", parse(&file[..]).unwrap_err());
            assert!(error.contains(expected), "{shape}: {error}");
        }
    }
}
