//! Source to tokens, by the rules of `jinja2/lexer.py` with `trim_blocks` and `lstrip_blocks`, as transformers sets them.

use std::rc::Rc;

use super::error::{JinjaError, Result};

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Data(Rc<str>),
    /// `{{`.
    Print,
    /// `}}`.
    PrintEnd,
    /// `{%`.
    Block,
    /// `%}`.
    BlockEnd,
    Name(Rc<str>),
    Str(Rc<str>),
    Int(i128),
    Float(f64),
    Op(&'static str),
}

/// Operators, longer ones first.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!",
];

/// All tokens with their lines.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        rest: &source,
        line: 1,
        at_line_start: true,
        tokens: Vec::new(),
    };
    lexer.run().map_err(|error| error.at(lexer.line))?;
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    rest: &'s str,
    line: usize,
    /// Whether the last tag took the line's end with it, or nothing was read yet.
    at_line_start: bool,
    tokens: Vec<(Token, usize)>,
}

impl<'s> Lexer<'s> {
    fn run(&mut self) -> Result<()> {
        while !self.rest.is_empty() {
            let Some((at, tag)) = next_tag(self.rest) else {
                let text = self.take(self.rest.len());
                self.data(text);
                return Ok(());
            };
            let text = self.take(at);
            self.take(2);
            let sign = self
                .rest
                .chars()
                .next()
                .filter(|sign| matches!(sign, '-' | '+'));
            // In `{{ +1 }}` the sign belongs to the number; in `{{-` it does not.
            let sign = sign.filter(|sign| *sign == '-' || tag != "{{");
            if sign.is_some() {
                self.take(1);
            }
            let text = match sign {
                Some('-') => text.trim_end(),
                None if tag != "{{" => self.without_indent(text),
                _ => text,
            };
            self.data(text);
            self.at_line_start = false;
            match tag {
                "{#" => self.comment()?,
                "{{" => {
                    self.push(Token::Print);
                    self.inside("}}", Token::PrintEnd)?;
                }
                _ if self.is_raw() => self.raw()?,
                _ => {
                    self.push(Token::Block);
                    self.inside("%}", Token::BlockEnd)?;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Data(text.into()));
        }
    }

    /// Moves over some bytes and counts their lines.
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn skip_space(&mut self) {
        let space = self.rest.len() - self.rest.trim_start().len();
        self.take(space);
    }

    /// `lstrip_blocks`: the blanks between the start of the line and a tag.
    fn without_indent<'t>(&self, text: &'t str) -> &'t str {
        let start = text.rfind('\n').map_or(0, |at| at + 1);
        let blank = text[start..].chars().all(char::is_whitespace);
        if blank && (start > 0 || self.at_line_start) {
            &text[..start]
        } else {
            text
        }
    }

    /// After the end of a block or comment: `-` takes all white space with it, and without a sign the end takes one line's end.
    fn after_end(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => {
                let before = self.rest;
                self.skip_space();
                let taken = &before[..before.len() - self.rest.len()];
                self.at_line_start = taken.ends_with('\n');
            }
            None if self.rest.starts_with('\n') => {
                self.take(1);
                self.at_line_start = true;
            }
            _ => {}
        }
    }

    /// A `-` or `+` in front of the end of a tag, and the end.
    fn end(&self, end: &str) -> Option<(Option<char>, usize)> {
        if self.rest.starts_with(end) {
            return Some((None, end.len()));
        }
        let sign = self
            .rest
            .chars()
            .next()
            .filter(|sign| matches!(sign, '-' | '+'))?;
        let ends = self.rest[1..].starts_with(end) && (sign == '-' || end != "}}");
        ends.then_some((Some(sign), end.len() + 1))
    }

    fn comment(&mut self) -> Result<()> {
        while !self.rest.is_empty() {
            if let Some((sign, bytes)) = self.end("#}") {
                self.take(bytes);
                self.after_end(sign);
                return Ok(());
            }
            let first = self.rest.chars().next().map_or(0, char::len_utf8);
            self.take(first);
        }
        Err(JinjaError::new("a comment does not end"))
    }

    fn is_raw(&self) -> bool {
        let word = self.rest.trim_start().strip_prefix("raw");
        word.is_some_and(|rest| {
            let end = rest.trim_start();
            end.starts_with("%}") || end.starts_with("-%}")
        })
    }

    fn raw(&mut self) -> Result<()> {
        let open = self.rest.find("%}").unwrap_or_default();
        let trims = self.rest[..open].ends_with('-');
        self.take(open + 2);
        if trims {
            self.skip_space();
        }
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%").map(|at| at + from) {
            let tag = &self.rest[at + 2..];
            let sign = tag.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let word = tag[sign.map_or(0, char::len_utf8)..].trim_start();
            let end = word.strip_prefix("endraw").map(str::trim_start);
            let end = end.and_then(|end| {
                let ends = [("%}", None), ("-%}", Some('-')), ("+%}", Some('+'))];
                ends.into_iter()
                    .find_map(|(tag, sign)| Some((end.strip_prefix(tag)?, sign)))
            });
            if let Some((rest, end_sign)) = end {
                let text = self.take(at);
                let text = match sign {
                    Some('-') => text.trim_end(),
                    None => self.without_indent(text),
                    _ => text,
                };
                self.data(text);
                self.take(self.rest.len() - rest.len());
                self.after_end(end_sign);
                return Ok(());
            }
            from = at + 2;
        }
        Err(JinjaError::new("a raw block does not end"))
    }

    /// The tokens of a tag, to its end.
    fn inside(&mut self, end: &str, token: Token) -> Result<()> {
        let mut open: Vec<char> = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty()
                && let Some((sign, bytes)) = self.end(end)
            {
                self.push(token);
                self.take(bytes);
                if end == "%}" || sign.is_some() {
                    self.after_end(sign);
                }
                return Ok(());
            }
            let Some(first) = self.rest.chars().next() else {
                return Err(JinjaError::new("a tag does not end"));
            };
            if first == '_' || first.is_alphabetic() {
                let is_part = |c: char| c == '_' || c.is_alphanumeric();
                let bytes = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
                let name = self.take(bytes);
                self.push(Token::Name(name.into()));
            } else if first.is_ascii_digit() {
                let number = self.number()?;
                self.push(number);
            } else if matches!(first, '"' | '\'') {
                let text = self.string(first)?;
                self.push(Token::Str(text));
            } else {
                let operator = OPERATORS
                    .into_iter()
                    .find(|operator| self.rest.starts_with(operator));
                let Some(operator) = operator.filter(|operator| *operator != "!") else {
                    return Err(JinjaError::new(format!(
                        "{first:?} is nothing that a tag may hold"
                    )));
                };
                match operator {
                    "(" | "[" | "{" => open.push(first),
                    ")" | "]" | "}" => {
                        let opened = open.pop();
                        let pair = matches!(
                            (opened, operator),
                            (Some('('), ")") | (Some('['), "]") | (Some('{'), "}")
                        );
                        if !pair {
                            return Err(JinjaError::new(format!("{operator:?} closes nothing")));
                        }
                    }
                    _ => {}
                }
                self.take(operator.len());
                self.push(Token::Op(operator));
            }
        }
    }

    /// A number as Python writes it: underscores, other bases, exponents.
    fn number(&mut self) -> Result<Token> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize, is_digit: fn(&u8) -> bool| {
            let mut at = from;
            while bytes.get(at).is_some_and(is_digit)
                || (at > from
                    && bytes.get(at) == Some(&b'_')
                    && bytes.get(at + 1).is_some_and(is_digit))
            {
                at += 1;
            }
            at
        };
        let radix = match bytes.get(1).map(u8::to_ascii_lowercase) {
            Some(b'x') => 16,
            Some(b'o') => 8,
            Some(b'b') => 2,
            _ => 10,
        };
        let after_dot = |at: usize| {
            bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
        };
        if bytes[0] == b'0' && radix != 10 {
            let end = digits(2, u8::is_ascii_hexdigit);
            let text = self.take(end)[2..].replace('_', "");
            let value = i128::from_str_radix(&text, radix).map_err(|_| too_large())?;
            return Ok(Token::Int(value));
        }
        let mut end = digits(0, u8::is_ascii_digit);
        let mut is_float = false;
        if after_dot(end) {
            end = digits(end + 1, u8::is_ascii_digit);
            is_float = true;
        }
        if bytes.get(end).is_some_and(|e| matches!(e, b'e' | b'E')) {
            let sign = usize::from(
                bytes
                    .get(end + 1)
                    .is_some_and(|sign| matches!(sign, b'+' | b'-')),
            );
            let exponent = digits(end + 1 + sign, u8::is_ascii_digit);
            if exponent > end + 1 + sign {
                end = exponent;
                is_float = true;
            }
        }
        let text = self.take(end).replace('_', "");
        if is_float {
            let value = text.parse().map_err(|_| too_large())?;
            return Ok(Token::Float(value));
        }
        if text.len() > 1 && text.starts_with('0') && text.bytes().any(|digit| digit != b'0') {
            return Err(JinjaError::new("a number begins with 0"));
        }
        Ok(Token::Int(text.parse().map_err(|_| too_large())?))
    }

    /// A string with Python's escapes; an unknown escape keeps its backslash.
    fn string(&mut self, quote: char) -> Result<Rc<str>> {
        let no_end = || JinjaError::new("a string does not end");
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        loop {
            let (at, c) = chars.next().ok_or_else(no_end)?;
            if c == quote {
                self.take(at + 1);
                return Ok(out.into());
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (at, escape) = chars.next().ok_or_else(no_end)?;
            let plain = match escape {
                '\n' => continue,
                '\\' | '\'' | '"' => escape,
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0C',
                'v' => '\x0B',
                'x' | 'u' | 'U' => {
                    let len = match escape {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let hex = self.rest.get(at + 1..at + 1 + len);
                    let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    let letter = code
                        .and_then(char::from_u32)
                        .ok_or_else(|| JinjaError::new("an escape in a string is no letter"))?;
                    chars.nth(len - 1);
                    letter
                }
                '0'..='7' => {
                    let digits = self.rest[at..]
                        .bytes()
                        .take(3)
                        .take_while(|digit| matches!(digit, b'0'..=b'7'));
                    let len = digits.count();
                    let code = u32::from_str_radix(&self.rest[at..at + len], 8).unwrap_or_default();
                    if len > 1 {
                        chars.nth(len - 2);
                    }
                    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                }
                'N' => return Err(JinjaError::new("letters by name (\\N) are not known here")),
                other => {
                    out.push('\\');
                    other
                }
            };
            out.push(plain);
        }
    }
}

fn too_large() -> JinjaError {
    JinjaError::new("a number is too large, or no number")
}

/// The next place where a tag begins.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find('{').map(|at| at + from) {
        let tag = ["{{", "{%", "{#"]
            .into_iter()
            .find(|tag| text[at..].starts_with(tag));
        if let Some(tag) = tag {
            return Some((at, tag));
        }
        from = at + 1;
    }
    None
}
