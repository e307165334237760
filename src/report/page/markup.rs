//! HTML and SVG, written so that an XML parser reads them too.

use core::fmt::{self, Display, Write};

/// Width of every drawing, in its own units.
pub(super) const WIDTH: f64 = 960.0;

/// Names and values of attributes.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a dyn Display)];

/// A growing document. Text and values are escaped; names are ours.
#[derive(Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    /// As it is: a document type, a style sheet.
    pub(super) fn raw(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub(super) fn text(&mut self, text: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(Escape(&mut self.0), "{text}");
    }

    /// `<name …>what inside writes</name>`.
    pub(super) fn within(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        self.0.push('>');
        inside(self);
        let _ = write!(self.0, "</{name}>");
    }

    /// `<name …>text</name>`.
    pub(super) fn element(&mut self, name: &str, attributes: Attributes<'_>, text: impl Display) {
        self.within(name, attributes, |markup| markup.text(text));
    }

    /// `<name …/>`: a shape, or an element of HTML that is always empty.
    pub(super) fn empty(&mut self, name: &str, attributes: Attributes<'_>) {
        self.open(name, attributes);
        self.0.push_str("/>");
    }

    pub(super) fn newline(&mut self) {
        self.0.push('\n');
    }

    /// A drawing, [`WIDTH`] wide.
    pub(super) fn picture(&mut self, height: f64, inside: impl FnOnce(&mut Self)) {
        let view = format!("0 0 {WIDTH} {height}");
        self.within("div", &[("class", &"scroll")], |markup| {
            markup.within("svg", &[("viewBox", &view), ("role", &"img")], inside);
        });
        self.newline();
    }

    /// A straight line of a drawing.
    pub(super) fn stroke(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let ([x1, y1], [x2, y2]) = (from.map(Px), to.map(Px));
        self.empty(
            "line",
            &[
                ("class", &class),
                ("x1", &x1),
                ("x2", &x2),
                ("y1", &y1),
                ("y2", &y2),
            ],
        );
    }

    /// Words of a drawing, of which `at` is the `anchor`: start, middle or end.
    pub(super) fn label(&mut self, class: &str, anchor: &str, at: [f64; 2], text: impl Display) {
        let [x, y] = at.map(Px);
        self.element(
            "text",
            &[
                ("class", &class),
                ("x", &x),
                ("y", &y),
                ("text-anchor", &anchor),
            ],
            text,
        );
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn open(&mut self, name: &str, attributes: Attributes<'_>) {
        let _ = write!(self.0, "<{name}");
        for (key, value) in attributes {
            let _ = write!(self.0, " {key}=\"");
            self.text(value);
            self.0.push('"');
        }
    }
}

/// Escapes what is written through it. Characters that XML does not have become U+FFFD.
struct Escape<'a>(&'a mut String);

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'.. => self.0.push(character),
                _ => self.0.push('\u{fffd}'),
            }
        }
        Ok(())
    }
}

/// A number of a drawing, to a tenth of its unit.
pub(super) struct Px(pub(super) f64);

impl Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0;
        write!(f, "{tenths}")
    }
}
