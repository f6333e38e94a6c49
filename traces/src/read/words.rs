//! Words that come up again and again, kept once.

use std::collections::HashMap;
use std::sync::Arc;

/// The place of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Word(u32);

impl Word {
    pub(crate) fn place(self) -> usize {
        self.0 as usize
    }
}

/// Words, each once.
#[derive(Default)]
pub(crate) struct Words {
    places: HashMap<Arc<str>, Word>,
    words: Vec<Arc<str>>,
}

impl Words {
    pub(crate) fn add(&mut self, word: &str) -> Word {
        if let Some(&place) = self.places.get(word) {
            return place;
        }
        let place =
            Word(u32::try_from(self.words.len()).expect("there are fewer words than bytes"));
        let word: Arc<str> = word.into();
        self.words.push(word.clone());
        self.places.insert(word, place);
        place
    }

    pub(crate) fn find(&self, word: &str) -> Option<Word> {
        self.places.get(word).copied()
    }

    pub(crate) fn get(&self, word: Word) -> &str {
        &self.words[word.place()]
    }
}
