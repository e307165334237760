//! The clean-up of spaces that `clean_up_tokenization_spaces` asks for, made for WordPiece: it joins `it 's .` to `it's.`
//! (`clean_up_tokenization` in transformers' `tokenization_utils_base.py`).

/// What is replaced, in this order.
const REPLACED: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// The text without those spaces.
pub(super) fn clean_up(text: &str) -> String {
    let replaced = REPLACED.iter();
    replaced.fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The same for a text that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct CleanUp {
    /// From a space on that may still go.
    held: String,
}

impl CleanUp {
    /// Takes a piece and gives the text that is certain.
    pub(super) fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let held = self.held.split_off(certain(&self.held));
        let text = clean_up(&self.held);
        self.held = held;
        text
    }

    /// The rest of the text.
    pub(super) fn finish(self) -> String {
        clean_up(&self.held)
    }
}

/// Where the last word begins, with the space in front of it: nothing in front of that place changes any more. Every
/// replacement begins with a space, and only that of `" ' "` reaches over another one.
fn certain(text: &str) -> usize {
    let bytes = text.as_bytes();
    let cuts = |at: &usize| {
        let before = &bytes[..*at];
        bytes[*at] == b' ' && !before.ends_with(b" ") && !before.ends_with(b" '")
    };
    match (1..bytes.len()).rev().find(cuts) {
        Some(at) => at,
        None if bytes.first().is_some_and(|first| *first != b' ') && !text.contains(' ') => {
            text.len()
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{CleanUp, clean_up};

    /// A space that is let through too early stays in the text for ever.
    #[test]
    fn pieces_give_the_same_text() {
        let alphabet = [" ", " ", "'", "s", "n't", ".", "a", ","];
        // All texts of five of these letters, in pieces of one or two.
        for number in 0..8_usize.pow(5) {
            let letters: Vec<&str> = (0..5).map(|at| alphabet[number >> (3 * at) & 7]).collect();
            let text = letters.concat();
            let mut stream = CleanUp::default();
            let mut joined = String::new();
            for pair in letters.chunks(1 + number % 2) {
                joined += &stream.push(&pair.concat());
            }
            joined += &stream.finish();
            assert_eq!(joined, clean_up(&text), "{text:?}");
        }
    }
}
