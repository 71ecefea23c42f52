//! The header `traceparent` (W3C Trace Context): which span asks.

/// Bytes of version, trace, span and flags with the dashes between them.
const LEN: usize = 55;

/// Bytes of a `tracestate` that is passed on.
const STATE_LEN_MAX: usize = 512;

/// The span that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: u128,
    /// `None` if nobody asks: the trace begins here.
    pub(crate) span: Option<u64>,
    /// Whether who asks is traced itself.
    pub(crate) sampled: bool,
    /// What other systems said, as it came.
    pub(crate) state: String,
}

impl Parent {
    /// Of a trace that begins here, with this number.
    pub(crate) fn none(high: u64, low: u64) -> Parent {
        let trace = (u128::from(high) << 64 | u128::from(low)).max(1);
        Parent { trace, span: None, sampled: true, state: String::new() }
    }

    /// What the headers say; `None` for what the specification has ignored.
    pub(crate) fn of(traceparent: &str, tracestate: &str) -> Option<Parent> {
        let bytes = traceparent.as_bytes();
        let fixed = traceparent.is_ascii() && bytes.len() >= LEN;
        if !fixed || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return None;
        }
        let version = hex(&traceparent[..2])?;
        let end =
            if version == 0 { bytes.len() == LEN } else { bytes.get(LEN).is_none_or(|&next| next == b'-') };
        let (trace, span) = (hex(&traceparent[3..35])?, hex(&traceparent[36..52])? as u64);
        let flags = hex(&traceparent[53..55])?;
        if version == 0xff || !end || trace == 0 || span == 0 {
            return None;
        }
        let state = if tracestate.len() <= STATE_LEN_MAX { tracestate } else { "" };
        Some(Parent { trace, span: Some(span), sampled: flags & 1 == 1, state: state.to_string() })
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
        let parent = Parent::of(good, "a=b").unwrap();
        assert_eq!(parent.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.span, parent.sampled), (Some(0x00f0_67aa_0ba9_02b7), true));
        assert_eq!(parent.state, "a=b");
        assert!(!Parent::of(&good.replace("-01", "-00"), "").unwrap().sampled);
        assert!(Parent::of(&good.replacen("00", "01", 1), "").is_some());
        assert!(Parent::of(&format!("{}-more", good.replacen("00", "01", 1)), "").is_some());
        assert_eq!(Parent::of(good, &"x".repeat(600)).unwrap().state, "");
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
            assert_eq!(Parent::of(wrong, ""), None, "{wrong}");
        }
    }
}
