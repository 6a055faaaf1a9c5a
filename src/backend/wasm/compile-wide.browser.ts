/** A page cannot ask its engine for wider vectors. */
export function compileWide(_bytes: Uint8Array<ArrayBuffer>): undefined {}
