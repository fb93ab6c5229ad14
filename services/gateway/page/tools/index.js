/** Loads every tool beside `generate`; each registers itself. */

import "./inpaint.js";
import "./outpaint.js";
import "./vary.js";
import "./interpolate.js";
import "./latents.js";
import "./style_mix.js";
import "./operation.js";
import "./likelihood.js";
