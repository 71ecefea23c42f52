"""A model file on MLServer with ONNX Runtime: the runtime class that a `model-settings.json` names.

MLServer has no runtime for ONNX files of its own; this one does what its documentation asks of a custom runtime, and
nothing else: decode, run, encode.
"""

import mlserver
import onnxruntime
from mlserver.codecs import NumpyCodec


class OnnxModel(mlserver.MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        names = [output.name for output in self.session.get_outputs()]
        arrays = self.session.run(names, feeds)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(names, arrays)]
        return mlserver.types.InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)
