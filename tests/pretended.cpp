// A pretended accelerator: tensors of PyTorch's spare device type whose memory is the host's.
//
// Every operator goes through PyTorch's real dispatcher, with its meta functions, device checks and
// the device thread of autograd, and ends in one fallback that refuses mixed devices and then runs
// the CPU's kernel on the same memory. So an operator that would fail on a GPU fails here, and what
// a GPU would have to wait for is counted.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr auto kDevice = c10::DeviceType::PrivateUse1;

std::atomic<long> to_device{0}, to_host{0}, waits{0};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* p = nullptr;
    if (n) {
      p = std::malloc(n);
      std::memset(p, 0xAB, n);  // what nobody has written is no number
    }
    return {p, p, &std::free, c10::Device(kDevice, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t n) const override { std::memcpy(to, from, n); }
};
Memory memory;
REGISTER_ALLOCATOR(kDevice, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kDevice;
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return c10::Device(kDevice, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, getDevice()); }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::globalContext().defaultGenerator(at::kCPU);
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<at::CPUGeneratorImpl>();
  }
  at::Device getDeviceFromPtr(void*) const override { return at::Device(kDevice, 0); }
  at::Allocator* getPinnedMemoryAllocator() const override { return at::getCPUAllocator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t n) const override {
    auto grown = memory.allocate(n);
    std::memcpy(grown.get(), storage.data(), std::min(n, storage.nbytes()));
    storage.set_data_ptr_noswap(std::move(grown));
    storage.unsafeGetStorageImpl()->set_nbytes(n);
  }
};

bool there(const at::Tensor& x) { return x.defined() && x.device().type() == kDevice; }

// A CPU tensor with the memory of one of the device, which it keeps alive.
at::Tensor host(const at::Tensor& x) {
  auto keep = std::make_shared<at::Tensor>(x);
  auto data = c10::InefficientStdFunctionContext::makeDataPtr(
      x.storage().mutable_data(), [keep](void*) {}, c10::Device(c10::kCPU));
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), x.storage().nbytes(), std::move(data), c10::GetCPUAllocator(), true);
  auto alias = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), x.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides());
  alias.unsafeGetTensorImpl()->set_storage_offset(x.storage_offset());
  if (x.is_conj()) alias._set_conj(true);
  if (x.is_neg()) alias._set_neg(true);
  return alias;
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

at::Tensor to_the_device(const at::Tensor& x) {
  auto copy = empty_strided(x.sizes(), x.strides(), x.scalar_type(), {}, {}, {});
  host(copy).copy_(x);
  return copy;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (!there(from)) to_device++;
  if (!there(to)) to_host++;
  (there(to) ? host(to) : to).copy_(there(from) ? host(from) : from);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const at::Tensor& x) {
  waits++;
  return host(x).item();
}

const at::Tensor& resize(
    const at::Tensor& x, c10::SymIntArrayRef size, std::optional<at::MemoryFormat>) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  int64_t n = x.storage_offset() + c10::multiply_integers(sizes);
  if (n * x.element_size() > x.storage().nbytes())
    Hooks().resizePrivateUse1Bytes(x.storage(), n * x.element_size());
  x.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return x;
}

at::Tensor& set_storage(
    at::Tensor& x, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  x.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  x.unsafeGetTensorImpl()->set_storage_offset(offset);
  x.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return x;
}

// A GPU takes an index from the host, and copies it.
const std::set<std::string> indexing = {
    "aten::index", "aten::_unsafe_index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"};
// Results whose size depends on numbers: the host must wait for them.
const std::set<std::string> waiting = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::repeat_interleave", "aten::bincount", "aten::equal"};

// Calls a function with every tensor of a value and puts what it returns in its place.
template <typename F>
void replace(c10::IValue& value, F each) {
  if (value.isTensor()) {
    value = each(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const auto& x : value.toTensorVector()) list.push_back(each(x));
    value = std::move(list);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& x : value.toOptionalTensorVector())
      list.push_back(x.has_value() ? std::optional<at::Tensor>(each(*x)) : std::nullopt);
    value = std::move(list);
  }
}

void check_devices(const std::string& name, std::vector<c10::IValue>& stack, size_t begin) {
  int on_device = 0, elsewhere = 0, masks = 0;
  for (size_t i = begin; i < stack.size(); i++) {
    const bool list = stack[i].isOptionalTensorList();
    replace(stack[i], [&](const at::Tensor& x) {
      if (there(x)) on_device++;
      if (there(x) && list && x.scalar_type() == at::kBool) masks++;
      // Numbers, and tensors without dimensions, may come from anywhere.
      if (x.defined() && !there(x) && x.dim() > 0) elsewhere++;
      return x;
    });
  }
  const bool mixed = on_device && elsewhere;
  TORCH_CHECK(
      !mixed || indexing.count(name), "tensors on different devices in ", name, ": ", on_device,
      " on the pretended one, ", elsewhere, " on the host");
  if (mixed) to_device++;
  if (waiting.count(name) || masks) waits++;
}

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t begin = stack->size() - schema.arguments().size();
  check_devices(op.operator_name().name, *stack, begin);
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;  // of the device, and its alias on the host
  for (size_t i = begin; i < stack->size(); i++) {
    replace((*stack)[i], [&](const at::Tensor& x) {
      if (!there(x)) return x;
      pairs.emplace_back(x, host(x));
      return pairs.back().second;
    });
    if ((*stack)[i].isDevice()) (*stack)[i] = c10::Device(at::kCPU);
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  for (auto& [ours, alias] : pairs) {  // what was resized has other memory now
    if (alias.sizes() != ours.sizes()) ours.resize_(alias.sizes());
    if (alias.numel() && alias.data_ptr() != ours.data_ptr()) host(ours).copy_(alias);
  }
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    replace((*stack)[i], [&](const at::Tensor& x) {
      if (!x.defined()) return x;
      for (auto& [ours, alias] : pairs)
        if (alias.is_same(x)) return ours;
      return to_the_device(x);
    });
  }
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("resize_", &resize);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  m.def("counts", [] {
    return std::map<std::string, long>{
        {"to_device", to_device.load()}, {"to_host", to_host.load()}, {"waits", waits.load()}};
  });
}
