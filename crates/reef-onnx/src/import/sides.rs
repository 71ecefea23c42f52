//! Sides of windows: where they lie along each spatial axis, and how many there are.

use super::attributes::Node;
use super::{Reject, wrong};

/// Elements of a window.
const WINDOW_MAX: usize = 1 << 24;

/// A window along one axis.
pub(super) struct Side {
    pub stride: usize,
    pub dilation: usize,
    /// Padding, and what only rounding up the output needs.
    pub before: usize,
    pub after: usize,
    pub extra: usize,
    /// Windows.
    pub output: usize,
}

/// A node's window along every axis.
pub(super) fn sides(node: &Node, kernel: &[usize], image: &[usize]) -> Result<Vec<Side>, Reject> {
    let rank = image.len();
    if kernel.contains(&0) {
        return wrong("an empty window");
    }
    let window = kernel.iter().fold(1usize, |product, &extent| product.saturating_mul(extent));
    if window > WINDOW_MAX {
        return wrong(format!("a window of {window} elements: {WINDOW_MAX} are supported"));
    }
    let strides = node.sizes("strides", rank, 1, 1)?;
    let dilations = node.sizes("dilations", rank, 1, 1)?;
    let pads = node.sizes("pads", 2 * rank, 0, 0)?;
    let of_axis = |axis: usize| {
        let field = (kernel[axis] - 1).saturating_mul(dilations[axis]).saturating_add(1);
        let given = (pads[axis], pads[axis + rank]);
        side(node, image[axis], field, (strides[axis], dilations[axis]), given).ok_or_else(|| {
            let padded = image[axis].saturating_add(given.0).saturating_add(given.1);
            let axis = axis + 2;
            Reject::Wrong(format!(
                "its window of {field} elements does not fit axis {axis} of {padded}, padding included"
            ))
        })
    };
    (0..rank).map(of_axis).collect()
}

/// The padding that a node asks for along one axis, and what comes out; `None` where the window has no place.
fn side(
    node: &Node,
    image: usize,
    field: usize,
    (stride, dilation): (usize, usize),
    pads: (usize, usize),
) -> Option<Side> {
    let side = |before: usize, after: usize, extra: usize, output: usize| {
        Some(Side { stride, dilation, before, after, extra, output })
    };
    let same = |lower: bool| {
        let output = image.div_ceil(stride);
        let total = (output.saturating_sub(1) * stride).checked_add(field)?.saturating_sub(image);
        let (small, large) = (total / 2, total - total / 2);
        let (before, after) = if lower { (large, small) } else { (small, large) };
        side(before, after, 0, output)
    };
    let (before, after) = match node.text("auto_pad").unwrap_or("NOTSET") {
        "SAME_UPPER" => return same(false),
        "SAME_LOWER" => return same(true),
        "VALID" => (0, 0),
        _ => pads,
    };
    let covered = image.checked_add(before)?.checked_add(after)?;
    let Some(room) = covered.checked_sub(field) else {
        // A pooling's first window may begin in the image and end outside of it, by less than a stride.
        let extra = field - covered;
        let pools = node.operator().ends_with("Pool") || node.operator() == "MaxUnpool";
        let fits = pools && extra < stride && image > 0;
        return side(before, after, extra, 1).filter(|_| fits);
    };
    // Beside `VALID` rounding up is not looked at.
    let rounds_up = node.flag("ceil_mode") && node.text("auto_pad") != Some("VALID");
    if !rounds_up || room.is_multiple_of(stride) {
        return side(before, after, 0, room / stride + 1);
    }
    // A window that would begin behind the image is left out.
    let last = room / stride + 1;
    if last * stride >= image + before {
        return side(before, after, 0, last);
    }
    side(before, after, last * stride + field - covered, last + 1)
}
