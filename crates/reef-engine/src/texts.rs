//! Texts of requests: numbers on their way to the model, which knows nothing else, and texts on their way
//! back. A text that the model has is its number there; others are numbered after those, for one request.

use std::sync::Arc;

use reef_base::limits::TEXT_BYTES_MAX;
use reef_graph::Texts;

use crate::error::{InferError, WrongInput};
use crate::model::TensorInfo;
use crate::pool::Model;
use crate::request::TextTensor;

/// Bytes in front of every text: its length.
const PREFIX_BYTES: usize = 4;

/// What the numbers in one request's tensors stand for.
#[derive(Debug)]
pub(crate) struct Lexicon {
    model: Arc<Texts>,
    /// Texts that the model has not.
    own: Texts,
    outputs: Arc<[TensorInfo]>,
}

impl Lexicon {
    /// For a request to a model; `None` if that has no texts.
    pub(crate) fn of(model: &Model) -> Option<Lexicon> {
        let mut tensors = model.inputs.iter().chain(model.outputs.iter());
        let texts = model.texts().filter(|_| tensors.any(|info| info.texts))?;
        Some(Lexicon { model: texts, own: Texts::default(), outputs: model.outputs.clone() })
    }

    /// Whether outputs are of texts.
    pub(crate) fn speaks(&self) -> bool {
        self.outputs.iter().any(|info| info.texts)
    }

    /// The numbers of an input's texts, little endian, 8 bytes each.
    fn numbers(&mut self, data: &[u8]) -> Result<Vec<u8>, WrongInput> {
        let (mut rest, mut numbers, mut kept) = (data, vec![], 0usize);
        while !rest.is_empty() {
            let text = rest.split_first_chunk::<PREFIX_BYTES>().and_then(|(length, rest)| {
                rest.split_at_checked(u32::from_le_bytes(*length) as usize)
            });
            let Some((text, after)) = text else {
                return Err(WrongInput::BrokenTexts { at: data.len() - rest.len() });
            };
            rest = after;
            let number = self.model.find(text).unwrap_or_else(|| {
                let before = self.own.len();
                let own = self.own.number(text);
                kept += if self.own.len() > before { text.len() } else { 0 };
                self.model.len() as i64 + own
            });
            if kept > TEXT_BYTES_MAX {
                return Err(WrongInput::LongTexts { max: TEXT_BYTES_MAX });
            }
            numbers.extend_from_slice(&number.to_le_bytes());
        }
        Ok(numbers)
    }

    /// What the elements of an output stand for, if it is of texts.
    pub(crate) fn texts<'a>(&'a self, output: usize, data: &'a [u8]) -> Option<impl Iterator<Item = &'a [u8]>> {
        let text = |number: i64| {
            let own = || self.own.text(number.checked_sub(self.model.len() as i64)?);
            self.model.text(number).or_else(own).unwrap_or_default()
        };
        let (numbers, _) = data.as_chunks::<8>();
        self.outputs[output].texts.then(|| numbers.iter().map(move |&number| text(i64::from_le_bytes(number))))
    }
}

/// For every tensor of texts of a request the numbers of them.
pub(crate) fn numbers(
    lexicon: Option<&mut Lexicon>,
    texts: &[TextTensor<'_>],
) -> Result<Vec<Vec<u8>>, InferError> {
    let Some(lexicon) = lexicon else {
        // The model takes none, which the check of its inputs says.
        return Ok(vec![vec![]; texts.len()]);
    };
    let numbered = |tensor: &TextTensor<'_>| {
        let wrong = |problem| InferError::WrongInput { name: tensor.name.to_owned(), problem };
        lexicon.numbers(tensor.data).map_err(wrong)
    };
    texts.iter().map(numbered).collect()
}
