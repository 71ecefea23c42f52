//! Operators of the domain `ai.onnx.ml`: classical models. All but decision trees are put together from
//! others. They are read under the name of their domain: `ai.onnx.ml.Scaler`.

mod ensemble;
mod forest;
mod scores;
mod svm;
mod tables;

use reef_graph::{DType, Shape, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};
use crate::names::CLASSICAL;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator().strip_prefix(CLASSICAL)? {
        "TreeEnsembleRegressor" => ensemble::regressor(b, node),
        "TreeEnsembleClassifier" => return Some(ensemble::classifier(b, node)),
        "TreeEnsemble" => ensemble::ensemble(b, node),
        "LinearRegressor" => tables::linear_regressor(b, node),
        "LinearClassifier" => return Some(tables::linear_classifier(b, node)),
        "SVMRegressor" => svm::regressor(b, node),
        "SVMClassifier" => return Some(svm::classifier(b, node)),
        "ZipMap" => tables::zip_map(b, node),
        "Scaler" => tables::scaler(b, node),
        "Normalizer" => tables::normalizer(b, node),
        "Imputer" => tables::imputer(b, node),
        "Binarizer" => tables::binarizer(b, node),
        "ArrayFeatureExtractor" => tables::extract(b, node),
        "OneHotEncoder" => tables::one_hot(b, node),
        "LabelEncoder" => tables::encode(b, node),
        "FeatureVectorizer" => tables::vectorize(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// Numbers in single precision, as a table `[rows, columns]`; a list is one row.
fn table(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
    let x = b.cast(name, x, DType::F32)?;
    grid(b, name, x)
}

/// The same in its own type.
fn grid(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
    match b.shape(x)[..] {
        [_, columns] if columns > 0 => Ok(x),
        [columns] if columns > 0 => b.reshape(name, x, Shape::from([1, columns])),
        _ => wrong(format!("its input is of shape {}, not a table of rows", b.shape(x))),
    }
}
