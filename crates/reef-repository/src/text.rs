//! The text format of protocol buffers, as far as it can be read without a schema: fields with their names,
//! places and values. What the fields mean is not known here.
//!
//! Both separators, comments, lists with and without a colon before them, both kinds of brackets, strings in
//! pieces and with every escape are read; a list is as many fields of its name as it has elements. Whatever
//! the input, reading it ends with a message or a [`Fault`] that has line and column: nesting and length are
//! bounded.

use std::fmt;

/// Bytes of one configuration at most.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Messages within messages at most.
pub(crate) const DEPTH_MAX: usize = 32;

/// A place in a text, both counted from 1; columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What is wrong with a configuration, and where if it is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Where; unknown of JSON.
    pub at: Option<At>,
    /// What.
    pub what: String,
}

impl Fault {
    pub(crate) fn new(at: Option<At>, what: impl Into<String>) -> Fault {
        Fault { at, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{at}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Fields in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Each; one that is repeated is there as often.
    pub fields: Vec<Field>,
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name; of an extension or an `Any` with the brackets.
    pub name: String,
    /// Where the name stands.
    pub at: Option<At>,
    /// What it is.
    pub value: Value,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number as it was written, with its sign.
    Number(String),
    /// A word without quotes: a boolean or a name of an enumeration.
    Word(String),
    /// A message.
    Message(Message),
}

/// Reads a text.
pub fn parse(text: &str) -> Result<Message, Fault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Fault::new(None, format!("{} bytes, at most {TEXT_BYTES_MAX} are read", text.len())));
    }
    let mut parser = Parser { lexer: Lexer::new(text), token: Token::End, at: At { line: 1, column: 1 } };
    parser.advance()?;
    parser.message(None, 0)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Number(String),
    Text(String),
    Sign(char),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(text) | Token::Number(text) => write!(f, "'{text}'"),
            Token::Text(_) => f.write_str("a string"),
            Token::Sign(sign) => write!(f, "'{}'", sign.escape_debug()),
            Token::End => f.write_str("the end"),
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that is looked at, and where it begins.
    token: Token,
    at: At,
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, Fault> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, Fault> {
        Err(Fault::new(Some(self.at), format!("expected {expected}, found {}", self.token)))
    }

    fn is(&self, sign: char) -> bool {
        self.token == Token::Sign(sign)
    }

    /// The fields up to the end of a message; `open` is where it began and what ends it.
    fn message(&mut self, open: Option<(At, char)>, depth: usize) -> Result<Message, Fault> {
        let mut message = Message::default();
        loop {
            match (&self.token, open) {
                (Token::End, None) => return Ok(message),
                (Token::End, Some((at, close))) => {
                    let what = format!("the text ends before the '{close}' of what begins at {at}");
                    return Err(Fault::new(Some(self.at), what));
                }
                (Token::Sign(sign), Some((_, close))) if *sign == close => {
                    self.advance()?;
                    return Ok(message);
                }
                _ => self.field(&mut message, depth)?,
            }
            if self.is(',') || self.is(';') {
                self.advance()?;
            }
        }
    }

    fn field(&mut self, message: &mut Message, depth: usize) -> Result<(), Fault> {
        let at = self.at;
        let name = match &self.token {
            Token::Word(name) => name.clone(),
            Token::Sign('[') => self.extension()?,
            _ => return self.wrong("the name of a field"),
        };
        self.advance()?;
        let colon = self.is(':');
        if colon {
            self.advance()?;
        }
        if !colon && !['{', '<', '['].into_iter().any(|sign| self.is(sign)) {
            return self.wrong(&format!("':' or a message after '{name}'"));
        }
        let mut push = |value| message.fields.push(Field { name: name.clone(), at: Some(at), value });
        if !self.is('[') {
            push(self.value(depth)?);
            return Ok(());
        }
        self.advance()?;
        while !self.is(']') {
            push(self.value(depth)?);
            if self.is(',') {
                self.advance()?;
            } else if !self.is(']') {
                return self.wrong("',' or ']' in a list");
            }
        }
        self.advance()?;
        Ok(())
    }

    /// `[a.b/c]`, up to its last token.
    fn extension(&mut self) -> Result<String, Fault> {
        let mut name = String::from("[");
        loop {
            self.advance()?;
            match &self.token {
                Token::Word(word) | Token::Number(word) => name.push_str(word),
                Token::Sign(sign @ ('.' | '/' | '-')) => name.push(*sign),
                Token::Sign(']') => {
                    name.push(']');
                    return Ok(name);
                }
                _ => return self.wrong("the name of an extension"),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        let at = self.at;
        match self.token {
            Token::Sign(open @ ('{' | '<')) => {
                if depth >= DEPTH_MAX {
                    return Err(Fault::new(
                        Some(at),
                        format!("messages are nested more than {DEPTH_MAX} deep"),
                    ));
                }
                self.advance()?;
                let close = if open == '{' { '}' } else { '>' };
                Ok(Value::Message(self.message(Some((at, close)), depth + 1)?))
            }
            Token::Sign('-') => {
                self.advance()?;
                match self.advance()? {
                    Token::Number(number) => Ok(Value::Number(format!("-{number}"))),
                    Token::Word(word) if is_special(&word) => Ok(Value::Number(format!("-{word}"))),
                    found => Err(Fault::new(Some(at), format!("expected a number after '-', found {found}"))),
                }
            }
            Token::Text(_) => {
                let mut whole = String::new();
                while let Token::Text(piece) = &self.token {
                    whole.push_str(piece);
                    self.advance()?;
                }
                Ok(Value::Text(whole))
            }
            Token::Number(_) | Token::Word(_) => match self.advance()? {
                Token::Number(number) => Ok(Value::Number(number)),
                Token::Word(word) => Ok(Value::Word(word)),
                _ => unreachable!("it was looked at"),
            },
            _ => self.wrong("a value"),
        }
    }
}

/// A word that is a number.
fn is_special(word: &str) -> bool {
    ["inf", "infinity", "nan"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    at: At,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        // Editors put a mark of the byte order there.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Lexer { rest: text.chars().peekable(), at: At { line: 1, column: 1 } }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn take(&mut self) -> Option<char> {
        let taken = self.rest.next()?;
        match taken {
            '\n' => self.at = At { line: self.at.line + 1, column: 1 },
            _ => self.at.column += 1,
        }
        Some(taken)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(next) = self.peek().filter(|&next| wanted(next)) {
            taken.push(next);
            self.take();
        }
        taken
    }

    /// The next token and where it begins.
    fn next(&mut self) -> Result<(Token, At), Fault> {
        loop {
            self.take_while(|c| c.is_ascii_whitespace() || c == '\u{b}');
            if self.peek() != Some('#') {
                break;
            }
            self.take_while(|c| c != '\n');
        }
        let at = self.at;
        let token = match self.peek() {
            None => Token::End,
            Some('a'..='z' | 'A'..='Z' | '_') => {
                Token::Word(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_'))
            }
            Some('0'..='9') => self.number(String::new(), at)?,
            Some('.') => {
                self.take();
                match self.peek() {
                    Some('0'..='9') => self.number(".".into(), at)?,
                    _ => Token::Sign('.'),
                }
            }
            Some(quote @ ('"' | '\'')) => {
                self.take();
                Token::Text(self.string(quote, at)?)
            }
            Some(sign) => {
                self.take();
                Token::Sign(sign)
            }
        };
        Ok((token, at))
    }

    fn number(&mut self, mut text: String, at: At) -> Result<Token, Fault> {
        loop {
            text.push_str(&self.take_while(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_'));
            let exponent = text.ends_with(['e', 'E']) && !text.starts_with("0x");
            match self.peek() {
                Some(sign @ ('+' | '-')) if exponent => {
                    text.push(sign);
                    self.take();
                }
                _ => break,
            }
        }
        let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let fine = match hex {
            Some(digits) => !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
            None => {
                let plain = text.strip_suffix(['f', 'F']).unwrap_or(&text);
                plain.bytes().all(|c| c.is_ascii_digit() || b".eE+-".contains(&c))
                    && plain.parse::<f64>().is_ok()
            }
        };
        match fine {
            true => Ok(Token::Number(text)),
            false => Err(Fault::new(Some(at), format!("'{text}' is not a number"))),
        }
    }

    /// The rest of a string that began at `open`.
    fn string(&mut self, quote: char, open: At) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        loop {
            let at = self.at;
            match self.take() {
                Some(c) if c == quote => break,
                Some('\\') => self.escape(&mut bytes, at)?,
                None | Some('\n') => {
                    return Err(Fault::new(
                        Some(open),
                        "the string that begins here does not end on its line",
                    ));
                }
                Some(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|_| Fault::new(Some(open), "the string is not UTF-8"))
    }

    fn escape(&mut self, bytes: &mut Vec<u8>, at: At) -> Result<(), Fault> {
        let wrong = |what: String| Fault::new(Some(at), what);
        let Some(kind) = self.take() else { return Err(wrong("a '\\' at the end".into())) };
        let plain = match kind {
            'a' => 7,
            'b' => 8,
            't' => b'\t',
            'n' => b'\n',
            'v' => 11,
            'f' => 12,
            'r' => b'\r',
            '\\' | '\'' | '"' | '?' => kind as u8,
            '0'..='7' => {
                let digits = self.digits(2, 8);
                let value = u32::from_str_radix(&format!("{kind}{digits}"), 8).unwrap_or(u32::MAX);
                u8::try_from(value).map_err(|_| wrong(format!("'\\{kind}{digits}' is more than a byte")))?
            }
            'x' | 'X' => {
                let digits = self.digits(2, 16);
                u8::from_str_radix(&digits, 16).map_err(|_| wrong("'\\x' needs digits".into()))?
            }
            'u' | 'U' => {
                let count = if kind == 'u' { 4 } else { 8 };
                let digits = self.digits(count, 16);
                let value = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == count);
                let letter = value.and_then(char::from_u32);
                let letter = letter.ok_or_else(|| wrong(format!("'\\{kind}{digits}' is no character")))?;
                bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            other => return Err(wrong(format!("there is no escape '\\{}'", other.escape_debug()))),
        };
        bytes.push(plain);
        Ok(())
    }

    /// At most `count` digits.
    fn digits(&mut self, count: usize, radix: u32) -> String {
        let mut digits = String::new();
        while digits.len() < count
            && let Some(digit) = self.peek().filter(|digit| digit.is_digit(radix))
        {
            digits.push(digit);
            self.take();
        }
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As one line: names, values, messages in braces.
    fn shown(message: &Message) -> String {
        let field = |field: &Field| match &field.value {
            Value::Text(text) => format!("{}={text:?}", field.name),
            Value::Number(text) => format!("{}={text}", field.name),
            Value::Word(text) => format!("{}={text}", field.name),
            Value::Message(inner) => format!("{}{{{}}}", field.name, shown(inner)),
        };
        message.fields.iter().map(field).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_form_of_a_field_is_read() {
        let cases = [
            ("", ""),
            ("# a comment\n", ""),
            ("a: 1 b: -2, c: 3; d: 4.5", "a=1 b=-2 c=3 d=4.5"),
            (
                "a: 0x1F b: 017 c: 1e-3 d: 2.f e: .5 f: - 7 g: -inf h: nan",
                "a=0x1F b=017 c=1e-3 d=2.f e=.5 f=-7 g=-inf h=nan",
            ),
            ("a { b: true } c < d: 'x' >", "a{b=true} c{d=\"x\"}"),
            ("a: { b: 1 }", "a{b=1}"),
            ("input [ { name: \"x\" }, { name: \"y\" } ]", "input{name=\"x\"} input{name=\"y\"}"),
            ("dims: [ 1, -1, 3 ]", "dims=1 dims=-1 dims=3"),
            ("dims: [] dims: [2,]", "dims=2"),
            ("a: 'one' \"two\"\n 'three'", "a=\"onetwothree\""),
            ("a: '\\x41\\102\\n\\u00e9\\U0001F600\\'\\\"\\\\'", "a=\"AB\\né😀'\\\"\\\\\""),
            ("a: '\\303\\251'", "a=\"é\""),
            ("[type.googleapis.com/a.B] { c: 1 }", "[type.googleapis.com/a.B]{c=1}"),
            ("kind: KIND_CPU # trailing\ncount:1", "kind=KIND_CPU count=1"),
            ("\u{feff}a: 1", "a=1"),
            ("a:1\r\nb:2", "a=1 b=2"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map(|message| shown(&message)), Ok(expected.to_string()), "{text}");
        }
    }

    #[test]
    fn faults_say_where() {
        let cases = [
            ("a: 1 }", "1:6: expected the name of a field, found '}'"),
            ("a {\n  b: 1\n", "3:1: the text ends before the '}' of what begins at 1:3"),
            ("a { b: 1 >", "1:10: expected the name of a field, found '>'"),
            ("a 1", "1:3: expected ':' or a message after 'a', found '1'"),
            ("a:", "1:3: expected a value, found the end"),
            ("a: 'x\n'", "1:4: the string that begins here does not end on its line"),
            ("a: \"x", "1:4: the string that begins here does not end on its line"),
            ("a: 'x\\", "1:6: a '\\' at the end"),
            ("a: '\\q'", "1:5: there is no escape '\\q'"),
            ("a: '\\777'", "1:5: '\\777' is more than a byte"),
            ("a: '\\x'", "1:5: '\\x' needs digits"),
            ("a: '\\ud800'", "1:5: '\\ud800' is no character"),
            ("a: '\\377'", "1:4: the string is not UTF-8"),
            ("a: 12ab", "1:4: '12ab' is not a number"),
            ("a: 0x", "1:4: '0x' is not a number"),
            ("a: - b", "1:4: expected a number after '-', found 'b'"),
            ("a: [1 2]", "1:7: expected ',' or ']' in a list, found '2'"),
            ("a: [[1]]", "1:5: expected a value, found '['"),
            ("a: [1,", "1:7: expected a value, found the end"),
            ("a: 1,, b: 2", "1:6: expected the name of a field, found ','"),
            ("é: 1", "1:1: expected the name of a field, found 'é'"),
            ("[a", "1:3: expected the name of an extension, found the end"),
            ("a: \u{0}", "1:4: expected a value, found '\\0'"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "a{".repeat(depth), "}".repeat(depth));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(parse(&nested(DEPTH_MAX + 1)).unwrap_err().what.contains("nested more than 32"));
        assert!(parse(&"a{".repeat(400_000)).is_err());
        assert!(parse(&"[".repeat(400_000)).is_err());
        assert!(parse(&" ".repeat(TEXT_BYTES_MAX + 1)).unwrap_err().what.contains("at most"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse(&text);
        }

        /// Of pieces that mean something.
        #[test]
        fn no_row_of_pieces_panics(pieces in proptest::collection::vec(0usize..24, 0..60)) {
            const PIECES: [&str; 24] = [
                "a", "input", ":", "{", "}", "[", "]", "<", ">", ",", ";", "'", "\"", "\\", "1", "-", "0x",
                ".5", "e", "#", "\n", " ", "'x'", "é",
            ];
            let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
            let _ = parse(&text);
        }
    }
}
