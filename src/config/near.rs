//! The word that a misspelt one may mean.

/// The name that needs the fewest changes to become `word`; none where more than half of the word would change.
pub(crate) fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let word = letters(word);
    let distances = names.map(|name| (changes(&word, &letters(name)), name));
    let (changes, name) = distances.min_by_key(|(changes, _)| *changes)?;
    (2 * changes <= word.len()).then_some(name)
}

/// A name as all spell it: `GPTNeoX` and `gpt_neox` alike.
pub(crate) fn letters(name: &str) -> Vec<char> {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// Letters that have to be put in, left out or replaced (Levenshtein).
fn changes(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (nth, a) in from.iter().enumerate() {
        let mut diagonal = core::mem::replace(&mut row[0], nth + 1);
        for (place, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distances of textbooks. Catches a row that is overwritten before it is read.
    #[test]
    fn changes_are_counted() {
        let count = |a: &str, b: &str| changes(&letters(a), &letters(b));
        assert_eq!(count("kitten", "sitting"), 3);
        assert_eq!(count("saturday", "sunday"), 3);
        assert_eq!(count("", "llama"), 5);
        assert_eq!(count("Llama", "llama"), 0);
    }
}
