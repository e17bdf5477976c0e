"""What passes and the engine ask of a graph: what its calls do, which values share storage, which calls compute the same.

Each question has one answer here. It knows fx and fake tensors, and neither passes nor the engine.
"""
