//! Inception v3 (Szegedy et al. 2015) as torchvision has it, without its auxiliary head and without the
//! rescaling of the input that belongs to Google's weights.

use super::{CLASSES, image_size};
use crate::graph::Graph;
use crate::layers::{Bias, Feature, Norm, Window};
use crate::variant::{Size, Variant};
use crate::{Model, ZooError};

const NORM: Norm = Norm { gain: 1.0, epsilon: 1e-3 };

/// A convolution of a branch: name, channels of the full network, window.
type Step<'a> = (&'a str, usize, Window);

const ONE: Window = Window::square(1, 1, 0);
const THREE: Window = Window::square(3, 1, 1);
const HALVE: Window = Window::square(3, 2, 0);
const FIVE: Window = Window::square(5, 1, 2);
const ROW_3: Window = Window { kernel: (1, 3), stride: 1, pad: (0, 1) };
const COLUMN_3: Window = Window { kernel: (3, 1), stride: 1, pad: (1, 0) };
const ROW_7: Window = Window { kernel: (1, 7), stride: 1, pad: (0, 3) };
const COLUMN_7: Window = Window { kernel: (7, 1), stride: 1, pad: (3, 0) };

pub(super) fn build(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::InceptionV3, variant, (299, 75), 75)?;
    let x = graph.image(variant, pixels);
    let mut net = Net { graph, size: variant.size };
    let mut x = net.stem(&x);
    for (path, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = net.mixed_a(path, &x, pooled);
    }
    x = net.mixed_b("Mixed_6a", &x);
    for (path, width) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        x = net.mixed_c(path, &x, width);
    }
    x = net.mixed_d("Mixed_7a", &x);
    x = net.mixed_e("Mixed_7b", &x);
    x = net.mixed_e("Mixed_7c", &x);
    let x = graph.global_average_pool("avgpool", &x);
    let x = graph.flatten("", &x);
    let x = graph.linear("fc", &x, variant.pick(CLASSES.0, CLASSES.1));
    graph.scores("logits", variant, &x);
    Ok(())
}

struct Net<'a> {
    graph: &'a mut Graph,
    size: Size,
}

impl Net<'_> {
    fn stem(&mut self, x: &Feature) -> Feature {
        let pool = Window::square(3, 2, 0);
        let x = self.conv("Conv2d_1a_3x3", x, 32, HALVE);
        let x = self.conv("Conv2d_2a_3x3", &x, 32, Window::square(3, 1, 0));
        let x = self.conv("Conv2d_2b_3x3", &x, 64, THREE);
        let x = self.graph.max_pool("maxpool1", &x, pool);
        let x = self.conv("Conv2d_3b_1x1", &x, 80, ONE);
        let x = self.conv("Conv2d_4a_3x3", &x, 192, Window::square(3, 1, 0));
        self.graph.max_pool("maxpool2", &x, pool)
    }

    fn mixed_a(&mut self, path: &str, x: &Feature, pooled: usize) -> Feature {
        let parts = [
            self.branch(path, x, &[("branch1x1", 64, ONE)]),
            self.branch(path, x, &[("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE)]),
            self.branch(
                path,
                x,
                &[("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE)],
            ),
            self.pooled(path, x, pooled),
        ];
        self.graph.concat(path, &parts)
    }

    fn mixed_b(&mut self, path: &str, x: &Feature) -> Feature {
        let parts = [
            self.branch(path, x, &[("branch3x3", 384, HALVE)]),
            self.branch(
                path,
                x,
                &[("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, HALVE)],
            ),
            self.graph.max_pool(path, x, HALVE),
        ];
        self.graph.concat(path, &parts)
    }

    fn mixed_c(&mut self, path: &str, x: &Feature, width: usize) -> Feature {
        let parts = [
            self.branch(path, x, &[("branch1x1", 192, ONE)]),
            self.branch(
                path,
                x,
                &[("branch7x7_1", width, ONE), ("branch7x7_2", width, ROW_7), ("branch7x7_3", 192, COLUMN_7)],
            ),
            self.branch(
                path,
                x,
                &[
                    ("branch7x7dbl_1", width, ONE),
                    ("branch7x7dbl_2", width, COLUMN_7),
                    ("branch7x7dbl_3", width, ROW_7),
                    ("branch7x7dbl_4", width, COLUMN_7),
                    ("branch7x7dbl_5", 192, ROW_7),
                ],
            ),
            self.pooled(path, x, 192),
        ];
        self.graph.concat(path, &parts)
    }

    fn mixed_d(&mut self, path: &str, x: &Feature) -> Feature {
        let parts = [
            self.branch(path, x, &[("branch3x3_1", 192, ONE), ("branch3x3_2", 320, HALVE)]),
            self.branch(
                path,
                x,
                &[
                    ("branch7x7x3_1", 192, ONE),
                    ("branch7x7x3_2", 192, ROW_7),
                    ("branch7x7x3_3", 192, COLUMN_7),
                    ("branch7x7x3_4", 192, HALVE),
                ],
            ),
            self.graph.max_pool(path, x, HALVE),
        ];
        self.graph.concat(path, &parts)
    }

    fn mixed_e(&mut self, path: &str, x: &Feature) -> Feature {
        let first = self.branch(path, x, &[("branch1x1", 320, ONE)]);
        let stem = self.branch(path, x, &[("branch3x3_1", 384, ONE)]);
        let second = self.fork(path, &stem, ["branch3x3_2a", "branch3x3_2b"]);
        let stem = self.branch(path, x, &[("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE)]);
        let third = self.fork(path, &stem, ["branch3x3dbl_3a", "branch3x3dbl_3b"]);
        let pooled = self.pooled(path, x, 192);
        self.graph.concat(path, &[first, second, third, pooled])
    }

    /// A row and a column filter side by side.
    fn fork(&mut self, path: &str, x: &Feature, names: [&str; 2]) -> Feature {
        let row = self.branch(path, x, &[(names[0], 384, ROW_3)]);
        let column = self.branch(path, x, &[(names[1], 384, COLUMN_3)]);
        self.graph.concat(path, &[row, column])
    }

    fn pooled(&mut self, path: &str, x: &Feature, channels: usize) -> Feature {
        let x = self.graph.average_pool(path, x, THREE);
        self.branch(path, &x, &[("branch_pool", channels, ONE)])
    }

    fn branch(&mut self, path: &str, x: &Feature, steps: &[Step<'_>]) -> Feature {
        steps.iter().fold(x.clone(), |x, (name, channels, window)| {
            self.conv(&format!("{path}.{name}"), &x, *channels, *window)
        })
    }

    fn conv(&mut self, path: &str, x: &Feature, channels: usize, window: Window) -> Feature {
        let channels = match self.size {
            Size::Full => channels,
            Size::Tiny => channels / 8 + 1,
        };
        let x = self.graph.conv(&format!("{path}.conv"), x, channels, window, Bias::No);
        let x = self.graph.batch_norm(&format!("{path}.bn"), &x, NORM);
        self.graph.relu(path, &x)
    }
}
