//! Texts of requests: numbers on their way to the model, which knows nothing else, and texts on their way
//! back. A text that the model has is its number there; others are numbered after those, for one request.

use std::sync::Arc;

use reef_base::limits::TEXT_BYTES_MAX;
use reef_graph::Texts;

use crate::error::{InferError, WrongInput};
use crate::model::TensorInfo;

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
    /// For a request to a model with these texts, if it has any.
    pub(crate) fn of(
        texts: Option<Arc<Texts>>,
        inputs: &[TensorInfo],
        outputs: &Arc<[TensorInfo]>,
    ) -> Option<Lexicon> {
        let mut tensors = inputs.iter().chain(outputs.iter());
        let model = texts.filter(|_| tensors.any(|info| info.texts))?;
        Some(Lexicon { model, own: Texts::default(), outputs: outputs.clone() })
    }

    /// Whether outputs are of texts.
    pub(crate) fn speaks(&self) -> bool {
        self.outputs.iter().any(|info| info.texts)
    }

    /// The numbers of an input's texts, little endian, 8 bytes each.
    fn numbers(&mut self, data: &[u8]) -> Result<Vec<u8>, WrongInput> {
        let (mut rest, mut numbers, mut kept) = (data, vec![], 0usize);
        while !rest.is_empty() {
            let text = rest
                .split_first_chunk::<PREFIX_BYTES>()
                .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
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
    pub(crate) fn texts<'a>(
        &'a self,
        output: usize,
        data: &'a [u8],
    ) -> Option<impl Iterator<Item = &'a [u8]>> {
        let text = |number: i64| {
            let own = || self.own.text(number.checked_sub(self.model.len() as i64)?);
            self.model.text(number).or_else(own).unwrap_or_default()
        };
        let (numbers, _) = data.as_chunks::<8>();
        self.outputs[output]
            .texts
            .then(|| numbers.iter().map(move |&number| text(i64::from_le_bytes(number))))
    }
}

/// For every tensor of texts of a request, of which names and data are given, the numbers of them.
pub(crate) fn numbers<'a>(
    mut lexicon: Option<&mut Lexicon>,
    tensors: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<Vec<u8>>, InferError> {
    let numbered = |(name, data): (&str, &[u8])| match &mut lexicon {
        Some(lexicon) => {
            let wrong = |problem| InferError::WrongInput { name: name.to_owned(), problem };
            lexicon.numbers(data).map_err(wrong)
        }
        // The model takes none, which the check of its inputs says.
        None => Ok(vec![]),
    };
    tensors.map(numbered).collect()
}

#[cfg(test)]
mod tests {
    use reef_graph::DType;

    use super::*;

    fn lexicon() -> Lexicon {
        let mut texts = Texts::default();
        texts.number(b"known");
        let info = |texts| TensorInfo { name: "x".into(), dtype: DType::I64, dims: vec![-1], texts };
        let outputs: Arc<[TensorInfo]> = Arc::new([info(true), info(false)]);
        assert!(Lexicon::of(None, &[], &outputs).is_none());
        assert!(Lexicon::of(Some(Arc::default()), &[info(false)], &Arc::from([])).is_none());
        Lexicon::of(Some(Arc::new(texts)), &[], &outputs).unwrap()
    }

    fn data(texts: &[&[u8]]) -> Vec<u8> {
        texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat()).collect()
    }

    #[test]
    fn texts_come_back_as_they_were_sent() {
        let mut lexicon = lexicon();
        let sent: [&[u8]; 5] = [b"known", b"", b"new", b"", &[0xff, 0]];
        let numbers = lexicon.numbers(&data(&sent)).unwrap();
        let each: Vec<i64> =
            numbers.as_chunks::<8>().0.iter().map(|number| i64::from_le_bytes(*number)).collect();
        assert_eq!(each, [0, 1, 2, 1, 3]);
        assert!(lexicon.texts(0, &numbers).unwrap().eq(sent));
        assert!(lexicon.texts(1, &numbers).is_none(), "an output of numbers");
        let strange: Vec<u8> =
            [-1, 9, i64::MIN, i64::MAX].iter().flat_map(|n: &i64| n.to_le_bytes()).collect();
        assert!(lexicon.texts(0, &strange).unwrap().all(<[u8]>::is_empty));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let broken = |bytes: &[u8]| lexicon().numbers(bytes).unwrap_err();
        assert_eq!(broken(&[1]), WrongInput::BrokenTexts { at: 0 });
        assert_eq!(
            broken(&[&data(&[b"ab"])[..], &[9, 0, 0, 0, 1]].concat()),
            WrongInput::BrokenTexts { at: 6 }
        );
        assert_eq!(broken(&[0xff; 7]), WrongInput::BrokenTexts { at: 0 });
        let long = vec![b'a'; TEXT_BYTES_MAX + 1];
        assert_eq!(broken(&data(&[&long])), WrongInput::LongTexts { max: TEXT_BYTES_MAX });
        let once = vec![b'a'; TEXT_BYTES_MAX];
        assert!(lexicon().numbers(&data(&[&once, &once, b"known"])).is_ok(), "it is kept once");
    }
}
