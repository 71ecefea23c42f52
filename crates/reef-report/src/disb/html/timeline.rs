//! The timeline of the device around a preemption: a lane per compute unit, blocks in the colours of their
//! class, killed ones hatched, moments as vertical lines.

use reef_base::ClassName;

use super::markup::Markup;
use super::scale::Scale;
use super::svg::{Anchor, Area, text_width};
use super::text::{time_tick_us, time_us};
use crate::disb::results::{Mark, Span, SpanKind, Timeline};

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const LANE: f64 = 24.0;
const MARK_ROW: f64 = 15.0;

/// Draws the section, unless the timeline is empty.
pub(super) fn draw(m: &mut Markup, timeline: &Timeline) {
    let lanes = timeline.spans.iter().map(|span| span.cu + 1).max().unwrap_or(0).max(timeline.cus);
    if timeline.spans.is_empty()
        || lanes > 1024
        || timeline.length_us <= 0.0
        || !timeline.length_us.is_finite()
    {
        return;
    }
    m.element("section", &[("id", &"timeline")], |m| {
        m.leaf("h2", &[], "A preemption, seen from the compute units");
        m.p("lead", &timeline.title);
        legend(m, timeline);
        m.div("scroll", |m| draw_lanes(m, timeline, lanes));
    });
}

/// Class of the colours of a span.
fn class(span: &Span) -> &'static str {
    match (span.class, span.what) {
        (ClassName::RealTime, SpanKind::Killed) => "t-real-time t-killed",
        (ClassName::RealTime, _) => "t-real-time",
        (ClassName::BestEffort, SpanKind::Block) => "t-best-effort",
        (ClassName::BestEffort, SpanKind::Padding) => "t-padding",
        (ClassName::BestEffort, SpanKind::Killed) => "t-best-effort t-killed",
    }
}

fn legend(m: &mut Markup, timeline: &Timeline) {
    let seen = |class_name: &str| timeline.spans.iter().any(|span| class(span) == class_name);
    let entries = [
        ("t-real-time", "real-time"),
        ("t-best-effort", "best-effort"),
        ("t-padding", "best-effort as padding"),
        ("t-best-effort t-killed", "best-effort, killed"),
    ];
    m.div("legend", |m| {
        for (class, name) in entries.into_iter().filter(|(class, _)| seen(class)) {
            m.element("span", &[("class", &format!("swatch {class}"))], |m| {
                m.leaf("i", &[], "");
                m.text(name);
            });
        }
    });
}

fn draw_lanes(m: &mut Markup, timeline: &Timeline, lanes: usize) {
    let x = Scale::linear([0.0, timeline.length_us]).on(LEFT, WIDTH - RIGHT);
    let rows = mark_rows(&timeline.marks, x);
    let top = 6.0 + MARK_ROW * rows.iter().map(|row| row + 1).max().unwrap_or(0) as f64;
    let floor = top + LANE * lanes as f64;
    m.svg("plot timeline", (WIDTH, floor + 40.0), &timeline.title, |m| {
        for lane in 0..lanes {
            let y = top + LANE * lane as f64;
            m.rect("lane", Area::between((LEFT, y + 1.0), (WIDTH - RIGHT, y + LANE - 1.0)), "");
            m.label("tick", Anchor::End, (LEFT - 7.0, y + LANE / 2.0 + 4.0), format!("CU {lane}"));
        }
        for tick in x.ticks(10) {
            m.line("axis", (x.at(tick), floor), (x.at(tick), floor + 4.0));
            m.label("tick", Anchor::Middle, (x.at(tick), floor + 17.0), time_tick_us(tick));
        }
        m.label("axis-title", Anchor::Middle, ((LEFT + WIDTH) / 2.0, floor + 34.0), "time");
        timeline.spans.iter().for_each(|span| draw_span(m, span, x, top));
        for (mark, row) in timeline.marks.iter().zip(rows) {
            draw_mark(m, mark, x, (6.0 + MARK_ROW * row as f64, floor));
        }
    });
}

fn draw_span(m: &mut Markup, span: &Span, x: Scale, top: f64) {
    if !(span.end_us > x.from && span.begin_us < x.to) {
        return;
    }
    let (from, to) = (x.at(span.begin_us), x.at(span.end_us));
    let y = top + LANE * span.cu as f64;
    let area = Area::between((from, y + 2.0), (to.max(from + 0.8), y + LANE - 2.0));
    let how = match span.what {
        SpanKind::Block => "",
        SpanKind::Padding => ", padding",
        SpanKind::Killed => ", killed",
    };
    let time = time_us(span.end_us - span.begin_us);
    let title = format!("{} {}, {}{how}: {time}", span.model, span.kernel, span.class);
    m.group(class(span), |m| {
        m.rect("fill", area, &title);
        if span.what == SpanKind::Killed {
            m.rect("hatch", area, &title);
        }
        if text_width(&span.kernel, 10.0) + 8.0 < area.width && span.what != SpanKind::Killed {
            m.label("span", Anchor::Start, (from + 4.0, y + LANE / 2.0 + 3.5), &span.kernel);
        }
    });
}

fn draw_mark(m: &mut Markup, mark: &Mark, x: Scale, (top, floor): (f64, f64)) {
    let at = x.at(mark.at_us);
    m.line("mark", (at, top), (at, floor));
    let text = mark_text(mark);
    if at + text_width(&text, 11.5) + 6.0 > WIDTH {
        m.label("mark-label", Anchor::End, (at - 5.0, top + 9.0), text);
    } else {
        m.label("mark-label", Anchor::Start, (at + 5.0, top + 9.0), text);
    }
}

fn mark_text(mark: &Mark) -> String {
    format!("{} {}", mark.what, time_us(mark.at_us))
}

/// In which row each mark's name stands, so that no two overlap.
fn mark_rows(marks: &[Mark], x: Scale) -> Vec<usize> {
    let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut row_of = |mark: &Mark| {
        let (at, width) = (x.at(mark.at_us), text_width(&mark_text(mark), 11.5) + 14.0);
        // A name near the right edge stands left of its line.
        let (from, to) = if at + width > WIDTH { (at - width, at + 5.0) } else { (at - 5.0, at + width) };
        let is_free = |row: &Vec<(f64, f64)>| row.iter().all(|&(begin, end)| to <= begin || from >= end);
        let row = taken.iter().position(is_free).unwrap_or(taken.len());
        if row == taken.len() {
            taken.push(Vec::new());
        }
        taken[row].push((from, to));
        row
    };
    marks.iter().map(&mut row_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_moments_do_not_overlap() {
        let mark = |at_us: f64| Mark { at_us, what: "first block".into() };
        let x = Scale::linear([0.0, 1000.0]).on(LEFT, WIDTH - RIGHT);
        assert_eq!(mark_rows(&[mark(100.0), mark(102.0), mark(104.0), mark(600.0)], x), [0, 1, 2, 0]);
        assert_eq!(mark_rows(&[mark(990.0), mark(995.0)], x), [0, 1]);
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let span = |begin_us, end_us| Span {
            cu: 0,
            begin_us,
            end_us,
            model: "m".into(),
            kernel: "k".into(),
            class: ClassName::BestEffort,
            what: SpanKind::Killed,
        };
        let spans = vec![span(-20.0, -10.0), span(-5.0, 5.0), span(f64::NAN, f64::NAN), span(200.0, 300.0)];
        let timeline = Timeline { title: "t".into(), length_us: 100.0, cus: 1, spans, marks: Vec::new() };
        let mut m = Markup::default();
        draw(&mut m, &timeline);
        assert_eq!(m.finish().matches("class=\"hatch\"").count(), 1);
    }
}
