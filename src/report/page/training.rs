//! A training run as a page: its numbers, and its curves.

use super::{
    document::document,
    lines::{Curve, curves},
};

/// Curves of one picture, below a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The heading.
    pub heading: &'static str,
    /// A sentence about it.
    pub note: &'static str,
    /// The curves; without a value there is no picture.
    pub curves: Vec<Curve>,
}

/// A page with `facts` and `pictures`: HTML that needs no other file.
pub fn training_page(title: &str, facts: &[(&str, String)], pictures: &[Picture]) -> String {
    document(title, |markup| {
        markup.element("h1", &[], title);
        markup.within("dl", &[], |markup| {
            for (name, value) in facts {
                markup.within("div", &[], |markup| {
                    markup.element("dt", &[], name);
                    markup.element("dd", &[], value);
                });
            }
        });
        markup.newline();
        for picture in pictures.iter().filter(|picture| {
            let mut curves = picture.curves.iter();
            curves.any(|curve| !curve.points.is_empty())
        }) {
            markup.element("h2", &[], picture.heading);
            markup.element("p", &[("class", &"note")], picture.note);
            curves(markup, &picture.curves);
        }
    })
}
