#!/usr/bin/env python3
"""Classical models: reef beside ONNX Runtime on what skl2onnx writes for scikit-learn, texts included.

Every estimator is fitted on a table from a seed, as a classifier of integers and of texts where it is one, and run on
rows of the table, on one row and on extremes. Maps (ZipMap) count as the table of what they hold.
"""

import argparse
import fnmatch
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnxruntime as ort

import oracle
from compare import run_reef
from oracle import held

LIMIT = 1e-4  # of an element, relative to the largest one
# Probabilities of classes from those of pairs take as many rounds as the numbers of a row ask for.
HOSTED = {"SVMClassifier"}
OPSET = {"": 18, "ai.onnx.ml": 3}

rng = np.random.default_rng(40)
TABLE = rng.standard_normal((160, 5)).astype("f4")
CLASSES = (TABLE[:, 0] + TABLE[:, 1] * TABLE[:, 2] > 0).astype("i8") + (TABLE[:, 3] > 1)
WORDS = np.array(["cat", "dog", "eel"])[CLASSES]
NUMBERS = TABLE[:, 0] * 2 + np.abs(TABLE[:, 1])
EXTREME = np.array([[0] * 5, [-0.0] * 5, [1e10, -1e10, 0, 1, 2]], "f4")
GAPS = np.array([[np.nan] * 5, [np.inf] * 5, [1, np.nan, -np.inf, 0, 2]], "f4")
TEXTS = np.array([["red", "S"], ["blue", "M"], ["green", "L"], ["red", "XL"]] * 12, dtype=object)
OTHERS = np.array([["red", "M"], ["", "S"], ["été", "red"]], dtype=object)


def classifiers():
    from sklearn import (calibration, discriminant_analysis, ensemble, linear_model, multiclass, naive_bayes, neighbors,
                         neural_network, svm, tree)

    for kernel in ("linear", "poly", "rbf", "sigmoid"):
        yield f"svc_{kernel}", svm.SVC(kernel=kernel)
        yield f"svc_{kernel}_probability", svm.SVC(kernel=kernel, probability=True, random_state=0)
    yield "linear_svc", svm.LinearSVC()
    yield "logistic", linear_model.LogisticRegression()
    yield "sgd", linear_model.SGDClassifier(loss="modified_huber", random_state=0)
    yield "neighbors", neighbors.KNeighborsClassifier(3)
    yield "gaussian", naive_bayes.GaussianNB()
    yield "bernoulli", naive_bayes.BernoulliNB()
    yield "network", neural_network.MLPClassifier((8,), max_iter=20, random_state=0)
    yield "tree", tree.DecisionTreeClassifier(max_depth=3, random_state=0)
    yield "forest", ensemble.RandomForestClassifier(5, random_state=0)
    yield "extra", ensemble.ExtraTreesClassifier(5, random_state=0)
    yield "boosting", ensemble.GradientBoostingClassifier(n_estimators=4, random_state=0)
    yield "histograms", ensemble.HistGradientBoostingClassifier(max_iter=4)
    yield "ada", ensemble.AdaBoostClassifier(n_estimators=4, random_state=0)
    yield "bag", ensemble.BaggingClassifier(n_estimators=3, random_state=0)
    yield "discriminant", discriminant_analysis.LinearDiscriminantAnalysis()
    yield "one_by_one", multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    yield "calibrated", calibration.CalibratedClassifierCV(naive_bayes.GaussianNB(), cv=2)
    yield "stack", ensemble.StackingClassifier([("a", linear_model.LogisticRegression()), ("b", naive_bayes.GaussianNB())])


def others():
    from sklearn import cluster, decomposition, ensemble, impute, linear_model, mixture, neighbors, preprocessing, svm

    for kernel in ("linear", "poly", "rbf", "sigmoid"):
        yield f"svr_{kernel}", svm.SVR(kernel=kernel)
    yield "one_class", svm.OneClassSVM()
    yield "isolation", ensemble.IsolationForest(n_estimators=6, random_state=0)
    yield "forest_numbers", ensemble.RandomForestRegressor(5, random_state=0)
    yield "neighbors_numbers", neighbors.KNeighborsRegressor(4)
    yield "ridge", linear_model.Ridge()
    yield "means", cluster.KMeans(3, n_init=1, random_state=0)
    yield "mixture", mixture.GaussianMixture(n_components=3, random_state=0)
    yield "scaled", preprocessing.StandardScaler()
    yield "bins", preprocessing.KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf")
    yield "polynomial", preprocessing.PolynomialFeatures(3)
    yield "components", decomposition.PCA(n_components=3)
    yield "imputed", impute.SimpleImputer()


def of_tables():
    """Name, what writes the model, and its inputs."""
    from skl2onnx import to_onnx

    def write(estimator, target, options, table=TABLE):
        fitted = estimator.fit(table, target)
        return to_onnx(fitted, table[:1], target_opset=OPSET, options=options and {id(fitted): options})

    rows = [{"X": TABLE[:7]}, {"X": TABLE[:1]}, {"X": EXTREME}]
    for name, estimator in classifiers():
        options = None if name in ("linear_svc",) else {"zipmap": False}
        near = rows if not name.startswith("svc") else rows[:2]
        yield f"{name}.integers", lambda e=estimator, o=options: write(e, CLASSES, o), near
        yield f"{name}.two", lambda e=estimator, o=options: write(e, (CLASSES > 0).astype("i8"), o), near
        yield f"{name}.texts", lambda e=estimator, o=options: write(e, WORDS, o), near
    for name, estimator in others():
        cases = rows if name != "imputed" else [{"X": TABLE[:7]}, {"X": GAPS}]
        yield name, lambda e=estimator: write(e, NUMBERS, None), cases
    double = TABLE.astype("f8")
    wide = [{"X": double[:7] * (1 + 1e-9)}, {"X": double[:1]}, {"X": EXTREME.astype("f8")}]
    for name in ("forest", "logistic", "gaussian", "neighbors", "network"):
        estimator = dict(classifiers())[name]
        yield f"{name}.double", lambda e=estimator: write(e, CLASSES, {"zipmap": False}, double), wide
    logistic = dict(classifiers())["logistic"]
    for name, target in (("integers", CLASSES), ("texts", WORDS)):
        yield f"maps.{name}", lambda t=target: write(logistic, t, {"zipmap": True}), rows
        yield f"columns.{name}", lambda t=target: write(logistic, t, {"zipmap": "columns"}), rows


def of_texts():
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn import compose, ensemble, linear_model, pipeline, preprocessing

    hot = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    ordinal = preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    feeds = [{"X": TEXTS[:4]}, {"X": OTHERS}]

    def write(estimator, target=None):
        fitted = estimator.fit(TEXTS, target)
        options = {id(fitted): {"zipmap": False}} if target is not None else None
        return to_onnx(fitted, initial_types=[("X", StringTensorType([None, 2]))], target_opset=OPSET, options=options)

    yield "texts.one_hot", lambda: write(hot), feeds
    yield "texts.ordinal", lambda: write(ordinal), feeds
    answers = np.array(["no", "yes", "maybe"])[np.arange(len(TEXTS)) % 3]
    piped = pipeline.make_pipeline(hot, ensemble.RandomForestClassifier(4, random_state=0))
    yield "texts.pipeline", lambda: write(piped, answers), feeds

    def columns():
        names = ["a", "b", "word", "size"]
        table = np.concatenate([TABLE[:48, :2], TEXTS], axis=1).astype(object)
        parts = [("n", preprocessing.StandardScaler(), [0, 1]), ("t", hot, [2, 3])]
        model = pipeline.make_pipeline(compose.ColumnTransformer(parts), linear_model.LogisticRegression())
        model.fit(table, answers)
        types = [FloatTensorType([None, 1])] * 2 + [StringTensorType([None, 1])] * 2
        return to_onnx(model, initial_types=list(zip(names, types)), target_opset=OPSET, options={"zipmap": False})

    mixed = {"a": TABLE[:3, :1], "b": TABLE[:3, 1:2], "word": OTHERS[:, :1], "size": OTHERS[:, 1:]}
    yield "texts.columns", columns, [mixed]


def difference(got, want):
    """What differs, or None."""
    if isinstance(want, list):  # of maps
        want = np.array([list(row.values()) for row in want], "f4").reshape(len(want), -1)
    got, want = (held(array) if array.dtype.kind in "OSU" else array for array in (got, np.asarray(want)))
    if got.shape != want.shape or got.dtype.kind != want.dtype.kind:
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        return None if np.array_equal(got, want) else f"{got.reshape(-1)[:5]}, not {want.reshape(-1)[:5]}"
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return f"{got.reshape(-1)[:5]}, not {want.reshape(-1)[:5]}"
    error = np.abs(got[finite] - want[finite]).max(initial=0)
    return f"an element is off by {error:.1e}" if error > LIMIT * max(1, np.abs(want[finite]).max(initial=0)) else None


def check(reef, name, write, cases, folder):
    """What is wrong with reef's answers, and what of the model runs on the host."""
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    path.write_bytes(write().SerializeToString())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    faults = []
    for number, feeds in enumerate(cases):
        names = [output.name for output in session.get_outputs()]
        want = dict(zip(names, session.run(names, feeds)))
        feeds = {input: held(array) if array.dtype.kind == "O" else array for input, array in feeds.items()}
        try:
            got = run_reef(reef, argparse.Namespace(path=path), feeds, folder / str(number), 120)
        except oracle.OracleError as error:
            faults.append(f"case {number}: {str(error)[-300:]}")
            continue
        for output in names:
            words = difference(got[output], want[output]) if output in got else "it is missing"
            if words:
                faults.append(f"case {number}: output {output}: {words}")
    told = subprocess.run([reef, "inspect", path, "--json"], capture_output=True, text=True)
    host = set(json.loads(told.stdout).get("host_kernels", [])) if told.returncode == 0 else set()
    return faults + [f"{operator} runs on the host" for operator in sorted(host - HOSTED)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--only", default="*", help="pattern of the names of models")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")  # of models that are fitted for a moment only
    count, wrong = 0, 0
    with tempfile.TemporaryDirectory(prefix="reef-classical-") as temporary:
        for name, write, cases in [*of_tables(), *of_texts()]:
            if not fnmatch.fnmatchcase(name, args.only):
                continue
            faults = check(args.reef.resolve(), name, write, cases, pathlib.Path(temporary) / name)
            count, wrong = count + 1, wrong + bool(faults)
            for fault in faults:
                print(f"{name}: {fault}", flush=True)
    print(f"{count - wrong} of {count} models agree")
    sys.exit(1 if wrong or not count else 0)


if __name__ == "__main__":
    main()
