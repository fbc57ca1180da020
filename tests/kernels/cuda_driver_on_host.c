// The part of the CUDA driver that mosso/kernels/cuda/driver.py calls, for modules that are libraries made with cuda_on_host.h: the image
// of a module is the path of its library.
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>

typedef struct {
  void (*run)(unsigned, unsigned, unsigned, size_t, void **);
  int max_shared;
} Function;
static Function functions[4096];
static int num_functions;
static int context, current;

int cuGetErrorName(int code, const char **name) { return *name = code == 1 ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR", 0; }
int cuGetErrorString(int code, const char **text) { return *text = "as the tests have it", 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return attribute == 81 ? (*value = 233472, 0) : 1; }
int cuDevicePrimaryCtxRetain(void **handle, int device) { return *handle = &context, 0; }
int cuCtxSetCurrent(void *handle) { return handle == &context ? (current = 1, 0) : 1; }
int cuModuleLoadData(void **module, const void *image) {
  *module = dlopen(image, RTLD_NOW | RTLD_LOCAL);
  return *module ? 0 : 1;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  char full[256];
  snprintf(full, sizeof full, "host_%s", name);
  Function found = {(void (*)(unsigned, unsigned, unsigned, size_t, void **))dlsym(module, full), 48 * 1024};
  functions[num_functions] = found;
  *function = &functions[num_functions++];
  return found.run ? 0 : 500;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) {
  return attribute == 8 ? (function->max_shared = value, 0) : attribute == 9 && value <= 100 ? 0 : 1;
}
int cuLaunchKernel(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void *stream, void **arguments, void **extra) {
  if (!current) return 201;
  if (!grid_x || !grid_y || grid_z != 1 || block_y != 1 || block_z != 1) return 1;
  if ((int)shared > function->max_shared || stream != (void *)7 || extra) return 1;
  function->run(grid_x, grid_y, block_x, shared, arguments);
  return 0;
}
