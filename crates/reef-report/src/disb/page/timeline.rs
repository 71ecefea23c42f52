//! The device around a preemption: a lane per compute unit, blocks in the colours of their class.

use reef_base::ClassName;

use crate::chart::{Chart, Lanes, Moment, Stretch};
use crate::colour::{Colour, Key};
use crate::disb::results::{Span, SpanKind, Timeline};
use crate::page::{Block, Section};
use crate::text::time_us;

/// The section, unless there is nothing to see.
pub(super) fn section(timeline: &Timeline) -> Option<Section> {
    let lanes = Lanes {
        label: timeline.title.clone(),
        lane: "CU",
        lanes: timeline.cus,
        length_us: timeline.length_us,
        stretches: timeline.spans.iter().map(stretch).collect(),
        moments: timeline
            .marks
            .iter()
            .map(|mark| Moment { at_us: mark.at_us, what: mark.what.clone() })
            .collect(),
    };
    if !lanes.is_drawn() {
        return None;
    }
    let blocks =
        vec![Block::lead(&timeline.title), Block::Legend(keys(timeline)), Block::chart(Chart::Lanes(lanes))];
    Some(Section::new("timeline", "A preemption, seen from the compute units", blocks))
}

fn colour(span: &Span) -> Colour {
    match (span.class, span.what) {
        (ClassName::RealTime, _) => Colour::RealTime,
        (ClassName::BestEffort, SpanKind::Padding) => Colour::Padding,
        (ClassName::BestEffort, SpanKind::Block | SpanKind::Killed) => Colour::BestEffort,
    }
}

fn stretch(span: &Span) -> Stretch {
    let how = match span.what {
        SpanKind::Block => "",
        SpanKind::Padding => ", padding",
        SpanKind::Killed => ", killed",
    };
    let time = time_us(span.end_us - span.begin_us);
    Stretch {
        lane: span.cu,
        begin_us: span.begin_us,
        end_us: span.end_us,
        colour: colour(span),
        lost: span.what == SpanKind::Killed,
        name: span.kernel.clone(),
        title: format!("{} {}, {}{how}: {time}", span.model, span.kernel, span.class),
    }
}

/// What of this is seen.
fn keys(timeline: &Timeline) -> Vec<Key> {
    let killed = |span: &Span| span.what == SpanKind::Killed;
    let names = [
        (Colour::RealTime, "real-time"),
        (Colour::BestEffort, "best-effort"),
        (Colour::Padding, "best-effort as padding"),
    ];
    let seen = |of: Colour| timeline.spans.iter().any(|span| !killed(span) && colour(span) == of);
    let named = names.into_iter().filter(|(colour, _)| seen(*colour));
    let mut keys: Vec<Key> = named.map(|(colour, name)| Key::Colour(colour, name.into())).collect();
    if timeline.spans.iter().any(killed) {
        keys.push(Key::Hatched("best-effort, killed".into()));
    }
    keys
}
