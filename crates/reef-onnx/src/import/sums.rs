//! Sums of products as convolutions and matrix products.
//!
//! Axes are classified by where they appear: *batch* (both operands and the result), *rows* (left and
//! result), *columns* (right and result), *inner* (both operands only). What already has NumPy's order
//! becomes a product as it is; anything else is permuted into `[batch,rows,inner]` and
//! `[batch,inner,columns]`. More than two operands are taken two at a time.

use reef_graph::{Binary, Op, Reduce, Shape, ValueId};

use super::attributes::Node;
use super::{Builder, Reject, wrong};

/// The letters of axes that an ellipsis stands for, counted from its end.
const HIDDEN: u32 = 0xE000;

/// An operand with its axes' letters.
#[derive(Clone, Debug)]
struct Term {
    value: ValueId,
    letters: Vec<char>,
}

/// What a term of the equation says: letters before an ellipsis and, if there is one, after it.
#[derive(Clone, Debug, Default)]
struct Said {
    before: Vec<char>,
    after: Option<Vec<char>>,
}

impl Said {
    fn parse(text: &str) -> Result<Said, Reject> {
        let parts: Vec<&str> = text.split("...").collect();
        if let Some(other) = parts.iter().flat_map(|part| part.chars()).find(|c| !c.is_ascii_alphabetic()) {
            return wrong(format!("`{other}` in its equation"));
        }
        let letters = |part: &str| part.chars().collect::<Vec<char>>();
        match parts[..] {
            [before] => Ok(Said { before: letters(before), after: None }),
            [before, after] => Ok(Said { before: letters(before), after: Some(letters(after)) }),
            _ => wrong("two ellipses in a term of its equation"),
        }
    }

    /// The letters with `hidden` axes in the ellipsis.
    fn letters(&self, hidden: usize) -> Vec<char> {
        let ellipsis = if self.after.is_some() { hidden } else { 0 };
        let hidden = (0..ellipsis as u32).rev().filter_map(|at| char::from_u32(HIDDEN + at));
        self.before.iter().copied().chain(hidden).chain(self.after.iter().flatten().copied()).collect()
    }

    fn named(&self) -> usize {
        self.before.len() + self.after.as_ref().map_or(0, Vec::len)
    }
}

pub(super) fn einsum(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let equation = node.text("equation").unwrap_or_default();
    let equation: String = equation.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let said = left.split(',').map(Said::parse).collect::<Result<Vec<_>, _>>()?;
    let inputs = node.all()?;
    if said.len() != inputs.len() {
        return wrong(format!("{} operands for {} terms", inputs.len(), said.len()));
    }
    let dtype = b.dtype(inputs[0]);
    let (mut terms, mut hidden) = (vec![], 0);
    for (said, &input) in said.iter().zip(&inputs) {
        if b.dtype(input) != dtype {
            return wrong(format!("operands of {dtype} and {}", b.dtype(input)));
        }
        let rank = b.rank(input);
        let fits = if said.after.is_some() { said.named() <= rank } else { said.named() == rank };
        if !fits {
            return wrong(format!("a term with {} letters for a tensor of rank {rank}", said.named()));
        }
        if said.after.is_some() {
            hidden = hidden.max(rank - said.named());
        }
        let (value, _) = b.computable(name, input)?;
        terms.push(Term { value, letters: said.letters(rank - said.named()) });
    }
    let out = result(&terms, right.map(Said::parse).transpose()?, hidden)?;
    let shape = extents(b, &terms, &out)?;
    let terms = terms.into_iter().map(|term| diagonal(b, name, term)).collect::<Result<Vec<_>, _>>()?;
    let made = contract(b, name, terms, &out, &shape)?;
    b.cast(name, made, dtype)
}

/// The letters of the result: without any, those that appear once, in their order.
fn result(terms: &[Term], said: Option<Said>, hidden: usize) -> Result<Vec<char>, Reject> {
    let all = || terms.iter().flat_map(|term| term.letters.iter().copied());
    let Some(said) = said else {
        let count = |letter: char| all().filter(|&other| other == letter).count();
        let mut once: Vec<char> = all().filter(|&letter| letter.is_ascii() && count(letter) == 1).collect();
        once.sort_unstable();
        return Ok(Said { before: vec![], after: Some(once) }.letters(hidden));
    };
    let letters = said.letters(hidden);
    for (at, letter) in letters.iter().enumerate() {
        if !all().any(|known| known == *letter) {
            return wrong("an axis of the result is in no operand");
        }
        if letters[..at].contains(letter) {
            return wrong("an axis is twice in the result");
        }
    }
    Ok(letters)
}

/// The shape of the result, if the operands' extents agree; an extent of 1 does with any.
fn extents(b: &Builder, terms: &[Term], out: &[char]) -> Result<Shape, Reject> {
    let mut known: Vec<(char, usize)> = vec![];
    for term in terms {
        for (&letter, &extent) in term.letters.iter().zip(b.shape(term.value).iter()) {
            match known.iter_mut().find(|(other, _)| *other == letter) {
                None => known.push((letter, extent)),
                Some((_, other)) if *other == 1 => *other = extent,
                Some((_, other)) if extent != *other && extent != 1 => {
                    return wrong(format!("an axis has extents {other} and {extent}"));
                }
                Some(_) => {}
            }
        }
    }
    let extent = |letter: &char| known.iter().find(|(other, _)| other == letter).map_or(1, |known| known.1);
    Ok(out.iter().map(extent).collect())
}

/// A term in which no letter is twice: of repeated axes the diagonal is taken.
fn diagonal(b: &mut Builder, name: &str, term: Term) -> Result<Term, Reject> {
    let Term { value, letters } = term;
    let repeated = |at: &usize| {
        letters[..*at].iter().position(|letter| *letter == letters[*at]).map(|first| (first, *at))
    };
    let Some((first, second)) = (0..letters.len()).find_map(|at| repeated(&at)) else {
        return Ok(Term { value, letters });
    };
    let shape = b.shape(value);
    let extent = shape[first];
    if shape[second] != extent {
        return wrong(format!("the diagonal of extents {extent} and {}", shape[second]));
    }
    // Both axes last and joined, every (extent + 1)-th element is on the diagonal.
    let others: Vec<usize> = (0..letters.len()).filter(|axis| *axis != first && *axis != second).collect();
    let perm = [&others[..], &[first, second]].concat();
    let turned = b.transpose(name, value, perm)?;
    let rest: Vec<usize> = others.iter().map(|&axis| shape[axis]).collect();
    let flat = b.reshape(name, turned, [&rest[..], &[extent * extent]].concat().into())?;
    let (axis, step) = (rest.len(), extent as isize + 1);
    let op = Op::Slice { axis, begin: 0, end: (extent * extent) as isize, step };
    let dims = [&rest[..], &[extent]].concat();
    let made = if extent == 1 { flat } else { b.add(name, op, &[flat], b.dtype(flat), dims.into())? };
    let kept: Vec<char> = others.iter().map(|&axis| letters[axis]).chain([letters[first]]).collect();
    diagonal(b, name, Term { value: made, letters: kept })
}

/// Terms contracted two at a time.
fn contract(
    b: &mut Builder,
    name: &str,
    mut terms: Vec<Term>,
    out: &[char],
    shape: &Shape,
) -> Result<ValueId, Reject> {
    while terms.len() > 2 {
        let (left, right) = (terms.remove(0), terms.remove(0));
        let needed =
            |letter: char| out.contains(&letter) || terms.iter().any(|term| term.letters.contains(&letter));
        let mut letters = left.letters.clone();
        letters.extend(right.letters.iter().filter(|letter| !left.letters.contains(letter)));
        letters.retain(|&letter| needed(letter));
        let partial = extents(b, &[left.clone(), right.clone()], &letters)?;
        let value = pair(b, name, &left, &right, &letters, &partial)?;
        terms.insert(0, Term { value, letters });
    }
    let made = match &terms[..] {
        [term] => single(b, name, term, out)?,
        [left, right] => return pair(b, name, left, right, out, shape),
        _ => return wrong("it has no operand"),
    };
    b.reshape(name, made, shape.clone())
}

/// One operand: sums and a permutation.
fn single(b: &mut Builder, name: &str, term: &Term, out: &[char]) -> Result<ValueId, Reject> {
    let term = summed(b, name, term, |letter| out.contains(&letter))?;
    arranged(b, name, &term, out)
}

fn pair(
    b: &mut Builder,
    name: &str,
    left: &Term,
    right: &Term,
    out: &[char],
    shape: &Shape,
) -> Result<ValueId, Reject> {
    for (x, y) in [(left, right), (right, left)] {
        if let Some(made) = product(b, name, x, y, out)? {
            return b.reshape(name, made, shape.clone());
        }
    }
    let made = general(b, name, left, right, out)?;
    if b.shape(made).elements() != shape.elements() {
        return b.expand(name, made, shape.clone());
    }
    b.reshape(name, made, shape.clone())
}

/// Operands that already have NumPy's order, perhaps with one matrix transposed.
fn product(
    b: &mut Builder,
    name: &str,
    left: &Term,
    right: &Term,
    out: &[char],
) -> Result<Option<ValueId>, Reject> {
    let [batch @ .., row, column] = out else { return Ok(None) };
    let matrix = |term: &Term, outer: char| -> Option<(bool, char)> {
        let [front @ .., x, y] = &term.letters[..] else { return None };
        if front != &batch[batch.len().checked_sub(front.len())?..] {
            return None;
        }
        match (*x == outer, *y == outer) {
            (true, false) => Some((false, *y)),
            (false, true) => Some((true, *x)),
            _ => None,
        }
    };
    let (Some((trans_a, inner)), Some((second_last, other))) = (matrix(left, *row), matrix(right, *column))
    else {
        return Ok(None);
    };
    let covered = batch.iter().all(|letter| left.letters.contains(letter) || right.letters.contains(letter));
    let units = |term: &Term| b.shape(term.value).contains(&1);
    if inner != other || out.contains(&inner) || !covered || units(left) || units(right) {
        return Ok(None);
    }
    b.matmul(name, (left.value, trans_a), (right.value, !second_last)).map(Some)
}

/// Anything else of two operands, by permutation. Axes of extent 1 are left out, of the result as well.
fn general(b: &mut Builder, name: &str, left: &Term, right: &Term, out: &[char]) -> Result<ValueId, Reject> {
    let (left, right) = (without_units(b, name, left)?, without_units(b, name, right)?);
    let left = summed(b, name, &left, |l| out.contains(&l) || right.letters.contains(&l))?;
    let right = summed(b, name, &right, |l| out.contains(&l) || left.letters.contains(&l))?;
    let in_left = |letter: &char| left.letters.contains(letter);
    let in_right = |letter: &char| right.letters.contains(letter);
    let pick = |keep: &dyn Fn(&char) -> bool| out.iter().copied().filter(|l| keep(l)).collect::<Vec<char>>();
    let batch = pick(&|l| in_left(l) && in_right(l));
    let rows = pick(&|l| in_left(l) && !in_right(l));
    let columns = pick(&|l| !in_left(l) && in_right(l));
    let inner: Vec<char> = left.letters.iter().copied().filter(|l| in_right(l) && !out.contains(l)).collect();
    let size = |extents: &[usize]| extents.iter().product::<usize>();
    let (bs, m) = (extents_of(b, &left, &batch), extents_of(b, &left, &rows));
    let (n, k) = (extents_of(b, &right, &columns), size(&extents_of(b, &left, &inner)));
    let a_order: Vec<char> = batch.iter().chain(&rows).chain(&inner).copied().collect();
    let b_order: Vec<char> = batch.iter().chain(&inner).chain(&columns).copied().collect();
    let (x, y) = (arranged(b, name, &left, &a_order)?, arranged(b, name, &right, &b_order)?);
    let made = if inner.is_empty() && (rows.is_empty() || columns.is_empty()) {
        // No sum: elements of one against those of the other.
        let spread = |own: &[usize], other: &[usize]| {
            let ones = vec![1; if own.is_empty() { other.len() } else { 0 }];
            [&bs[..], own, &ones].concat()
        };
        let x = b.reshape(name, x, spread(&m, &n).into())?;
        let y = b.reshape(name, y, spread(&n, &m).into())?;
        b.binary(name, Binary::Mul, x, y)?
    } else {
        // Without batch axes all rows but the last may broadcast against the one matrix on the right.
        let x_rows = if bs.is_empty() && !m.is_empty() { m.clone() } else { vec![size(&m)] };
        let x = b.reshape(name, x, [&bs[..], &x_rows[..], &[k]].concat().into())?;
        let y = b.reshape(name, y, [&bs[..], &[k, size(&n)]].concat().into())?;
        b.matmul(name, (x, false), (y, false))?
    };
    let apart: Shape = bs.iter().chain(&m).chain(&n).copied().collect();
    let value = b.reshape(name, made, apart)?;
    let letters: Vec<char> = batch.into_iter().chain(rows).chain(columns).collect();
    let order: Vec<char> = out.iter().copied().filter(|letter| letters.contains(letter)).collect();
    arranged(b, name, &Term { value, letters }, &order)
}

fn extents_of(b: &Builder, term: &Term, letters: &[char]) -> Vec<usize> {
    let shape = b.shape(term.value);
    let of = |letter: &char| term.letters.iter().position(|l| l == letter).map_or(1, |axis| shape[axis]);
    letters.iter().map(of).collect()
}

/// The term without axes of extent 1, which broadcast against anything.
fn without_units(b: &mut Builder, name: &str, term: &Term) -> Result<Term, Reject> {
    let shape = b.shape(term.value);
    let kept = || shape.iter().zip(&term.letters).filter(|&(&extent, _)| extent != 1);
    let dims: Shape = kept().map(|(&extent, _)| extent).collect();
    let letters = kept().map(|(_, &letter)| letter).collect();
    Ok(Term { value: b.reshape(name, term.value, dims)?, letters })
}

/// The term summed over the axes that nothing else keeps.
fn summed(b: &mut Builder, name: &str, term: &Term, kept: impl Fn(char) -> bool) -> Result<Term, Reject> {
    let axes: Vec<usize> = (0..term.letters.len()).filter(|&axis| !kept(term.letters[axis])).collect();
    if axes.is_empty() {
        return Ok(term.clone());
    }
    let folded = b.reduce(name, Reduce::Sum, &axes, term.value)?;
    let shape = b.shape(folded);
    let rest = |axis: &usize| !axes.contains(axis);
    let dims: Shape = (0..term.letters.len()).filter(rest).map(|axis| shape[axis]).collect();
    let letters = (0..term.letters.len()).filter(rest).map(|axis| term.letters[axis]).collect();
    Ok(Term { value: b.reshape(name, folded, dims)?, letters })
}

/// The term with its axes in the given order, which has the same letters.
fn arranged(b: &mut Builder, name: &str, term: &Term, order: &[char]) -> Result<ValueId, Reject> {
    let at =
        |letter: &char| term.letters.iter().position(|l| l == letter).expect("the order has its letters");
    b.transpose(name, term.value, order.iter().map(at).collect())
}
