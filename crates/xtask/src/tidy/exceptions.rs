//! Size limits and the list of what may still exceed them.
//!
//! The list only shrinks: an entry that nothing needs any more is as much an error as a limit exceeded
//! without one.

use std::str::FromStr;

use super::Finding;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    FileLines,
    LineChars,
    FnLines,
}

impl Rule {
    const ALL: [Self; 3] = [Self::FileLines, Self::LineChars, Self::FnLines];

    pub(crate) fn limit(self) -> usize {
        match self {
            Self::FileLines => 800,
            Self::LineChars => 110,
            Self::FnLines => 70,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::FileLines => "file-lines",
            Self::LineChars => "line-chars",
            Self::FnLines => "fn-lines",
        }
    }
}

/// A measured length.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) rule: Rule,
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) function: Option<String>,
    pub(crate) value: usize,
}

/// The parsed list.
#[derive(Debug)]
pub(crate) struct Exceptions {
    file: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    rule: Rule,
    path: String,
    function: Option<String>,
    max: usize,
}

impl Exceptions {
    /// Reads the list; a line that cannot be read is a finding in `file`.
    pub(crate) fn parse(file: &str, text: &str) -> (Self, Vec<Finding>) {
        let mut entries = Vec::new();
        let mut findings = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Entry::parse(index + 1, line) {
                Ok(entry) => entries.push(entry),
                Err(why) => findings.push(Finding::new(file, index + 1, "exceptions", why)),
            }
        }
        (Self { file: file.to_owned(), entries }, findings)
    }

    /// Compares measures with limits and exceptions.
    pub(crate) fn judge(&self, measures: &[Measure]) -> Vec<Finding> {
        let mut needed = vec![false; self.entries.len()];
        let mut findings = Vec::new();
        for measure in measures.iter().filter(|measure| measure.value > measure.rule.limit()) {
            let entry = self.entries.iter().position(|entry| entry.covers(measure));
            if let Some(index) = entry {
                needed[index] = true;
            }
            let max = entry.map_or(measure.rule.limit(), |index| self.entries[index].max);
            if measure.value > max {
                findings.push(measure.too_large(max));
            }
        }
        for (entry, _) in self.entries.iter().zip(&needed).filter(|(_, needed)| !**needed) {
            let message = "this exception is not needed any more: remove it";
            findings.push(Finding::new(&self.file, entry.line, "exceptions", message));
        }
        findings
    }
}

impl Measure {
    fn too_large(&self, max: usize) -> Finding {
        let (rule, value) = (self.rule.name(), self.value);
        let message = match (self.rule, &self.function) {
            (Rule::FnLines, Some(name)) => format!("`{name}` has {value} lines, at most {max}: split it"),
            (Rule::LineChars, _) => format!("{value} characters, at most {max}: break the line"),
            _ => format!("{value} lines, at most {max}: split the file"),
        };
        Finding::new(&self.path, self.line, rule, message)
    }
}

impl Entry {
    fn parse(line: usize, text: &str) -> Result<Self, String> {
        let (entry, reason) = text.split_once(" -- ").ok_or("write `RULE PATH[#FUNCTION] MAX -- reason`")?;
        if reason.trim().is_empty() {
            return Err("an exception needs a reason".to_owned());
        }
        let fields: Vec<&str> = entry.split_whitespace().collect();
        let [rule, place, max] = fields[..] else {
            return Err("write `RULE PATH[#FUNCTION] MAX -- reason`".to_owned());
        };
        let rule = Rule::ALL.into_iter().find(|known| known.name() == rule);
        let rule = rule.ok_or("the rules with exceptions are file-lines, line-chars and fn-lines")?;
        let (path, function) = match place.split_once('#') {
            Some((path, function)) => (path, Some(function.to_owned())),
            None => (place, None),
        };
        if function.is_some() != (rule == Rule::FnLines) {
            return Err("fn-lines names a function as PATH#FUNCTION; the other rules do not".to_owned());
        }
        let max = usize::from_str(max).map_err(|_| format!("`{max}` is no number"))?;
        Ok(Self { line, rule, path: path.to_owned(), function, max })
    }

    fn covers(&self, measure: &Measure) -> bool {
        self.rule == measure.rule && self.path == measure.path && self.function == measure.function
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(rule: Rule, function: Option<&str>, value: usize) -> Measure {
        Measure { rule, path: "a.rs".to_owned(), line: 3, function: function.map(str::to_owned), value }
    }

    fn judge(list: &str, measures: &[Measure]) -> Vec<String> {
        let (exceptions, findings) = Exceptions::parse("list.txt", list);
        assert_eq!(findings, []);
        exceptions.judge(measures).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn at_the_limit_is_fine_and_one_above_is_not() {
        assert!(
            judge("", &[measure(Rule::FnLines, Some("f"), 70), measure(Rule::FileLines, None, 800)])
                .is_empty()
        );
        let found = judge("", &[measure(Rule::FnLines, Some("f"), 71), measure(Rule::LineChars, None, 111)]);
        assert_eq!(found[0], "a.rs:3: [fn-lines] `f` has 71 lines, at most 70: split it");
        assert_eq!(found[1], "a.rs:3: [line-chars] 111 characters, at most 110: break the line");
    }

    #[test]
    fn an_exception_covers_up_to_its_own_maximum() {
        let list = "fn-lines a.rs#f 90 -- a table\n";
        assert!(judge(list, &[measure(Rule::FnLines, Some("f"), 90)]).is_empty());
        assert_eq!(judge(list, &[measure(Rule::FnLines, Some("f"), 91)]).len(), 1);
        assert_eq!(
            judge(list, &[measure(Rule::FnLines, Some("f"), 80), measure(Rule::FnLines, Some("g"), 80)])
                .len(),
            1
        );
    }

    #[test]
    fn an_exception_that_is_not_needed_is_an_error() {
        let list = "# heading\n\nfile-lines a.rs 900 -- operators\n";
        let found = judge(list, &[measure(Rule::FileLines, None, 700)]);
        assert_eq!(found, ["list.txt:3: [exceptions] this exception is not needed any more: remove it"]);
    }

    #[test]
    fn lines_that_cannot_be_read_are_named() {
        let list =
            "file-lines a.rs 900\nwidth a.rs 9 -- x\nfn-lines a.rs 90 -- x\nfile-lines a.rs many -- x\n";
        let (_, findings) = Exceptions::parse("list.txt", list);
        let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 2, 3, 4]);
    }
}
