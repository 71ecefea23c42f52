//! Which span asks, as W3C Trace Context writes it in `traceparent`.

/// Bytes of version, trace, span and flags with the dashes between them.
const LEN: usize = 55;

/// The span that asks: what a request is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not 0.
    pub trace: u128,
    /// The span in it; not 0.
    pub span: u64,
    /// Whether who asks is traced itself: what is not, is not recorded.
    pub sampled: bool,
}

impl TraceParent {
    /// What a header `traceparent` says; `None` for what the specification has ignored.
    pub fn parse(text: &str) -> Option<TraceParent> {
        let bytes = text.as_bytes();
        let fixed = text.is_ascii() && bytes.len() >= LEN;
        if !fixed || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return None;
        }
        let version = hex(&text[..2])?;
        let end =
            if version == 0 { bytes.len() == LEN } else { bytes.get(LEN).is_none_or(|&next| next == b'-') };
        let (trace, span) = (hex(&text[3..35])?, hex(&text[36..52])? as u64);
        let flags = hex(&text[53..55])?;
        let right = version != 0xff && end && trace != 0 && span != 0;
        right.then_some(TraceParent { trace, span, sampled: flags & 1 == 1 })
    }
}

/// Lower-case digits alone, as the specification has it.
fn hex(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if digits { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_as_the_specification_writes_it_or_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(good).unwrap();
        assert_eq!(parent.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.span, parent.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert!(!TraceParent::parse(&good.replace("-01", "-00")).unwrap().sampled);
        assert!(TraceParent::parse(&good.replacen("00", "01", 1)).is_some());
        assert!(TraceParent::parse(&format!("{}-more", good.replacen("00", "01", 1))).is_some());
        for wrong in [
            "",
            "00",
            &good[1..],
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &format!("{good}-more"),
            &format!("{}more", good.replacen("00", "01", 1)),
            &good.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
        }
    }
}
