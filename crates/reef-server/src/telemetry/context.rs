//! Which span asks: the headers of W3C Trace Context, or an entry of the ring.

use reef_client::TraceParent;

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
        let state = if tracestate.len() <= STATE_LEN_MAX { tracestate } else { "" };
        TraceParent::parse(traceparent).map(|parent| Parent { state: state.into(), ..parent.into() })
    }
}

impl From<TraceParent> for Parent {
    fn from(parent: TraceParent) -> Parent {
        let TraceParent { trace, span, sampled } = parent;
        Parent { trace, span: Some(span), sampled, state: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_keeps_the_state_of_others_if_it_is_short() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::of(good, "a=b").unwrap();
        assert_eq!(parent.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.span, parent.sampled), (Some(0x00f0_67aa_0ba9_02b7), true));
        assert_eq!(parent.state, "a=b");
        assert_eq!(Parent::of(good, &"x".repeat(600)).unwrap().state, "");
        assert_eq!(Parent::of("00", "a=b"), None);
    }
}
