// Runs a graph that `python -m export.aoti` compiled, without Python:
//
//     run_graph GRAPH.pt2 OUTPUT.pt INPUT.pt...
//
// Inputs are tensors that torch.save wrote, in the order of report.json; the output is one that
// torch.load reads. A .pt2 file is code, and loading it runs it: give it files of your own.
// Built against the libraries of the torch that compiled the graph:
//
//     T=$(python -c 'import torch; print(torch.__path__[0])')
//     g++ -std=c++20 run_graph.cpp -o run_graph -I$T/include -I$T/include/torch/csrc/api/include
//         -L$T/lib -Wl,-rpath,$T/lib -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>

#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

int main(int count, char** arguments) try {
  if (count < 4) {
    std::cerr << "usage: run_graph GRAPH.pt2 OUTPUT.pt INPUT.pt...\n";
    return 2;
  }
  // Without it the code believes whatever type and size its inputs have.
  setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 1);
  c10::InferenceMode no_gradients;
  torch::inductor::AOTIModelPackageLoader graph(arguments[1]);
  const bool on_gpu = graph.get_metadata().at("AOTI_DEVICE_KEY") == "cuda";
  std::vector<at::Tensor> inputs;
  for (int place = 3; place < count; ++place) {
    std::ifstream file(arguments[place], std::ios::binary);
    std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    inputs.push_back(torch::jit::pickle_load(bytes).toTensor().to(on_gpu ? at::kCUDA : at::kCPU));
  }
  const at::Tensor output = graph.run(inputs).at(0).cpu();
  const std::vector<char> bytes = torch::jit::pickle_save(output);
  std::ofstream(arguments[2], std::ios::binary).write(bytes.data(), bytes.size());
  std::cout << arguments[2] << ": " << output.sizes() << '\n';
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
