//! The table of `reef top`: as text, and on a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as TableRow, Table};

use crate::commands::top::sample::Row;

/// Columns and how wide they are, but for the first, which has the rest.
const COLUMNS: [(&str, u16); 9] = [
    ("MODEL", 16),
    ("CLASS", 11),
    ("REQ/S", 9),
    ("P50", 9),
    ("P99", 9),
    ("QUEUE", 6),
    ("RUNS", 5),
    ("MISSES/S", 9),
    ("PREEMPT/S", 9),
];

/// Lines of text.
pub fn text(rows: &[Row]) -> Vec<String> {
    let line = |cells: [String; 9]| {
        let cells = cells.iter().zip(COLUMNS).enumerate().map(|(at, (cell, (_, width)))| match at {
            0 | 1 => format!("{cell:<width$}", width = usize::from(width)),
            _ => format!("{cell:>width$}", width = usize::from(width)),
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_string()
    };
    let header = line(COLUMNS.map(|(name, _)| name.to_string()));
    std::iter::once(header).chain(rows.iter().map(|row| line(cells(row)))).collect()
}

/// The whole screen.
pub fn draw(frame: &mut Frame<'_>, url: &str, rows: &[Row], trouble: Option<&str>) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    let sum =
        |class: &str| -> f64 { rows.iter().filter(|row| row.class == class).map(|row| row.per_s).sum() };
    let title = format!(
        "reef  {url}  real-time {} req/s  best-effort {} req/s",
        number(sum("real-time")),
        number(sum("best-effort"))
    );
    frame.render_widget(Line::from(title).bold(), head);
    let mut widths: Vec<Constraint> = COLUMNS.iter().map(|(_, width)| Constraint::Length(*width)).collect();
    widths[0] = Constraint::Min(COLUMNS[0].1);
    let header = COLUMNS.iter().enumerate().map(|(at, (name, _))| cell(at, (*name).to_string()));
    let lines = rows.iter().map(|row| {
        let colour = match (row.missed_per_s > 0.0, &*row.class) {
            (true, _) => Style::new().fg(Color::Red),
            (false, "real-time") => Style::new().fg(Color::Green),
            (false, _) => Style::new(),
        };
        TableRow::new(cells(row).into_iter().enumerate().map(|(at, text)| cell(at, text))).style(colour)
    });
    let table = Table::new(lines, widths).header(TableRow::new(header).style(Style::new().reversed()));
    frame.render_widget(table, body);
    let below = match trouble {
        Some(trouble) => Line::from(trouble.to_string()).red(),
        None => Line::from("q quits").dim(),
    };
    frame.render_widget(below, foot);
}

fn cell(at: usize, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if at < 2 { line.left_aligned() } else { line.right_aligned() })
}

fn cells(row: &Row) -> [String; 9] {
    let shown = |text: &str| text.chars().map(|c| if c.is_control() { '�' } else { c }).collect();
    [
        shown(&row.model),
        shown(&row.class),
        number(row.per_s),
        time(row.p50_s),
        time(row.p99_s),
        row.queued.to_string(),
        row.running.to_string(),
        number(row.missed_per_s),
        number(row.preemptions_per_s),
    ]
}

fn number(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// The bound of a bucket: at most so long.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".into(),
        Some(seconds) if seconds.is_infinite() => "more".into(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn rows() -> Vec<Row> {
        let row = |model: &str, class: &str, per_s, p99_s, missed_per_s| Row {
            model: model.into(),
            class: class.into(),
            per_s,
            p50_s: Some(0.0005),
            p99_s,
            queued: 2,
            running: 1,
            missed_per_s,
            preemptions_per_s: 0.0,
        };
        vec![
            row("detector/1", "real-time", 250.04, Some(0.0123), 1.5),
            row("a-model-with-a-long-name/17", "best-effort", 3.0, None, 0.0),
        ]
    }

    fn screen(width: u16, height: u16, trouble: Option<&str>) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, "http://h:1", &rows(), trouble)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_string()).collect()
    }

    #[test]
    fn the_screen_has_a_line_per_model() {
        let shown = screen(110, 6, None);
        assert_eq!(shown[0], "reef  http://h:1  real-time 250 req/s  best-effort 3.0 req/s");
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(words(&shown[1]), COLUMNS.map(|(name, _)| name.to_string()));
        let expected = ["detector/1", "real-time", "250", "500", "µs", "12.3", "ms", "2", "1", "1.5", "0"];
        assert_eq!(words(&shown[2]), expected);
        assert!(shown[3].starts_with("a-model-with-a-long-name/17") && shown[3].contains(" - "), "{shown:?}");
        assert_eq!(shown[5], "q quits");
        assert_eq!(screen(110, 6, Some("gone"))[5], "gone");
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for (width, height) in [(1, 1), (10, 2), (80, 3), (300, 50)] {
            assert_eq!(screen(width, height, Some("trouble")).len(), usize::from(height));
        }
    }

    #[test]
    fn text_has_the_same_columns() {
        let text = text(&rows());
        assert!(text[0].starts_with("MODEL") && text[1].contains("12.3 ms"), "{text:#?}");
        assert_eq!(text.len(), 3);
    }
}
